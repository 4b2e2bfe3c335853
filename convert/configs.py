"""Model configurations, from the shapes of their parameters."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from ..errors import CheckpointError
from ..models import taesd
from ..models.clip import ClipConfig
from ..models.unet import UNetConfig
from ..models.vae import CoderConfig, VaeConfig
from .kinds import base_of
from .parameter import Parameters

# Not in any shape, but the same in every model of a kind.
SD1_HEADS = 8
HEAD_WIDTH = 64  # in CLIP, and in the UNets of SD 2.x and SDXL

# SDXL's UNet has fewer than 100, but a name may speak of any number before it.
_MAX_BLOCKS = 1000


def unet_config(parameters: Parameters) -> UNetConfig:
    """Raises: CheckpointError if an outer part of the UNet is missing."""
    depths = _depths(parameters)
    down = [depths[f"down.{i}"] for i in range(_count(depths, r"down\.(\d+)"))]
    widths = tuple(
        _shape(parameters, f"down.{i}.blocks.0.res.conv1.weight")[0]
        for i in range(len(down))
    )
    cross = next((n for n in parameters if n.endswith("cross_attn.k.weight")), None)
    proj_in = next((n for n in parameters if n.endswith("attn.proj_in.weight")), None)
    if not widths or cross is None or proj_in is None:
        raise CheckpointError("the UNet lacks its levels or its attention to the text")
    up = [depths[f"up.{i}"] for i in range(len(down))]
    _check_blocks(sum(1 + d for level in (*down, depths["mid"], *up) for d in level))
    context_width = parameters[cross].shape[1]
    linear = len(parameters[proj_in].entry.shape) == 2
    vector, guidance = "vector.layers.0.weight", "guidance.weight"
    vector_width = parameters[vector].shape[1] if vector in parameters else None
    base = base_of(context_width, vector_width, linear)
    only_cross = tuple(
        _only_cross(parameters, i, width) for i, width in enumerate(widths)
    )
    return UNetConfig(
        in_channels=_shape(parameters, "conv_in.weight")[3],
        out_channels=_shape(parameters, "conv_out.weight")[0],
        widths=widths,
        heads=tuple(
            SD1_HEADS if base == "sd1" else width // HEAD_WIDTH for width in widths
        ),
        context_width=context_width,
        time_width=_shape(parameters, "time.layers.0.weight")[0],
        down=tuple(down),
        mid=depths["mid"],
        up=tuple(up),
        vector_width=vector_width,
        linear_projections=linear,
        only_cross=only_cross,
        guidance_width=parameters[guidance].shape[1]
        if guidance in parameters
        else None,
    )


def vae_config(parameters: Parameters) -> VaeConfig:
    """Raises: CheckpointError if an outer part of the decoder is missing."""
    names = parameters.keys()
    has_encoder = any(name.startswith("encoder.") for name in names)
    return VaeConfig(
        channels=_shape(parameters, "decoder.conv_out.weight")[0],
        latent_channels=_shape(parameters, "decoder.conv_in.weight")[3],
        encoder=_coder(parameters, "encoder") if has_encoder else None,
        decoder=_coder(parameters, "decoder"),
        quant="post_quant.weight" in names,
    )


def taesd_config(parameters: Parameters) -> taesd.TaesdConfig:
    """Raises: CheckpointError if an outer convolution of a coder is missing."""
    encoder = _tiny_coder(parameters, "encoder", nearest=taesd.STAGES - 1)
    decoder = _tiny_coder(parameters, "decoder", nearest=0)
    coder = "encoder" if encoder else "decoder"
    taken = _shape(parameters, f"{coder}.conv_in.weight")[3]
    given = _shape(parameters, f"{coder}.conv_out.weight")[0]
    return taesd.TaesdConfig(
        channels=taken if encoder else given,
        latent_channels=given if encoder else taken,
        encoder=encoder,
        decoder=decoder,
    )


def clip_config(parameters: Parameters) -> ClipConfig:
    """Raises: CheckpointError if the embeddings or the first layer are missing."""
    vocabulary, width = _shape(parameters, "token.weight")
    projection = "projection.weight"
    return ClipConfig(
        vocabulary=vocabulary,
        positions=_shape(parameters, "position.weight")[0],
        width=width,
        layers=_count(parameters, r"layers\.(\d+)\..*"),
        heads=width // HEAD_WIDTH,
        mlp_width=_shape(parameters, "layers.0.fc1.weight")[0],
        activation="quick_gelu",
        projection=parameters[projection].shape[0]
        if projection in parameters
        else None,
        eos=vocabulary - 1,
    )


def openclip_config(parameters: Parameters) -> ClipConfig:
    """Raises: CheckpointError if the embeddings or the first layer are missing."""
    return replace(clip_config(parameters), activation="gelu")


def _coder(parameters: Parameters, coder: str) -> CoderConfig:
    levels = _count(parameters, rf"{coder}\.levels\.(\d+)\..*")
    blocks = _count(parameters, rf"{coder}\.levels\.0\.res\.(\d+)\..*")
    _check_blocks(levels * blocks)
    return CoderConfig(
        widths=tuple(
            _shape(parameters, f"{coder}.levels.{i}.res.0.conv1.weight")[0]
            for i in range(levels)
        ),
        blocks=blocks,
    )


def _tiny_coder(
    parameters: Parameters, coder: str, nearest: int
) -> taesd.CoderConfig | None:
    """None if the file does not hold it; `nearest` is the stage next to the latents."""
    if not any(name.startswith(f"{coder}.") for name in parameters):
        return None
    pool = f"{coder}.stages.{nearest}.blocks.0.pool.widen.weight"
    return taesd.CoderConfig(
        width=_shape(parameters, f"{coder}.conv_in.weight")[0],
        pool_width=_shape(parameters, pool)[0] if pool in parameters else None,
    )


def _check_blocks(count: int) -> None:
    if count > _MAX_BLOCKS:
        raise CheckpointError(
            f"its names speak of {count} blocks and layers, and {_MAX_BLOCKS} are the "
            "most that we build"
        )


_BLOCK = re.compile(
    r"(mid|(?:down|up)\.\d+)(?:\.blocks)?\.(\d+)\.(?:res|attn(?:\.layers\.(\d+))?)\..*"
)


def _depths(names: Iterable[str]) -> defaultdict[str, tuple[int, ...]]:
    """Level, or "mid" → transformer layers behind each of its residual blocks."""
    levels: defaultdict[str, tuple[int, ...]] = defaultdict(tuple)
    for found in filter(None, map(_BLOCK.fullmatch, names)):
        level, block = found[1], int(found[2])
        depth = int(found[3]) + 1 if found[3] else 0
        depths = levels[level] + (0,) * (block + 1 - len(levels[level]))
        if depth > depths[block]:
            depths = (*depths[:block], depth, *depths[block + 1 :])
        levels[level] = depths
    return levels


def _only_cross(parameters: Parameters, level: int, width: int) -> bool:
    name = f"down.{level}.blocks.0.attn.layers.0.self_attn.k.weight"
    return name in parameters and parameters[name].shape[1] != width


def _count(names: Iterable[str], pattern: str) -> int:
    """One more than the largest number that the pattern finds; 0 if none."""
    found = map(re.compile(pattern).fullmatch, names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _shape(parameters: Parameters, name: str) -> tuple[int, ...]:
    if name not in parameters:
        raise CheckpointError(f"the weight {name} is missing")
    return parameters[name].shape
