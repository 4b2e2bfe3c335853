"""Good files of models that cannot be: empty, endless or misshapen weights."""

import json
import math
from collections.abc import Iterator

import seeded

from .case import Case, Sparse
from .tensors import FILE

_LARGE = 2**31 - 1


def hollow(shapes: seeded.Shapes) -> Sparse:
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape)
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    return Sparse.after(len(text).to_bytes(8, "little") + text, end)


# Weights that say what the model is.
_TELLING = (
    *("input_blocks.0.0.weight", "input_blocks.1.0.in_layers.2.weight"),
    *("model.out.2.weight", "time_embed.0.weight", "attn2.to_k.weight"),
    *("1.proj_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight"),
    *("decoder.up.0.block.0.conv1.weight", "encoder.conv_in.weight"),
    *("token_embedding.weight", "position_embedding.weight", "mlp.fc1.weight"),
)


def _shapes(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {
        "no axes": (),
        "empty": (0, *shape[1:]),
        "empty within": (shape[0], 0, *shape[2:]),
        "empty and long": (0, *[_LARGE] * (len(shape) - 1)),
        "longer": (2**30, *[1] * (len(shape) - 1)),
        "odd": (63, *shape[1:]),
        "odd within": (shape[0], 63, *shape[2:]),
        "another axis": (*shape, 1),
        "fewer axes": shape[1:],
    }


def _many_levels(levels: int, blocks: int, depth: int) -> seeded.Shapes:
    """A UNet that names the last layer of each block, and so has all before it."""
    shapes = {
        "vae.decoder.conv_in.weight": (1, 4, 1, 1),
        "te.text_model.final_layer_norm.weight": (1,),
        "unet.conv_in.weight": (1, 4, 1, 1),
        "unet.conv_out.weight": (4, 1, 1, 1),
        "unet.time_embedding.linear_1.weight": (1, 1),
        "unet.mid_block.resnets.1.conv1.weight": (1, 1, 1, 1),
    }
    for i in range(levels):
        shapes[f"unet.down_blocks.{i}.resnets.0.conv1.weight"] = (8, 1, 1, 1)
        for j in range(blocks):
            block = f"unet.down_blocks.{i}.attentions.{j}"
            shapes[f"{block}.proj_in.weight"] = (8, 8, 1, 1)
            layer = f"{block}.transformer_blocks.{depth - 1}"
            shapes[f"{layer}.attn2.to_k.weight"] = (8, 8)
    return shapes


def _many_blocks(levels: int) -> seeded.Shapes:
    """A VAE whose finest level has a hundredth block, so that all levels have."""
    return {
        **seeded.small_shapes(),
        **{
            f"{seeded.VAE}{coder}.{i}.block.0.conv1.weight": (8, 8, 1, 1)
            for coder in ("encoder.down", "decoder.up")
            for i in range(4, levels)
        },
        f"{seeded.VAE}decoder.up.0.block.99.conv1.weight": (8, 8, 1, 1),
        f"{seeded.VAE}encoder.down.0.block.99.conv1.weight": (8, 8, 1, 1),
    }


def _only(*names: str) -> seeded.Shapes:
    return {name: (2, 2) for name in names}


def model_cases() -> Iterator[Case]:
    """All of them can be read, but hardly run."""
    good = seeded.small_shapes()
    changed = {}
    for i, ending in enumerate(_TELLING):
        name = next(name for name in good if name.endswith(ending))
        for change, shape in list(_shapes(good[name]).items())[i % 5 :: 5]:
            changed[f"{ending}, {change}"] = good | {name: shape}
    others: dict[str, seeded.Shapes] = {
        "10,000 layers": _many_levels(10, 10, 100),
        "250,000 layers": _many_levels(50, 50, 100),
        "10,000 blocks of a VAE": _many_blocks(100),
        "an SDXL without blocks above": {
            "unet.conv_in.weight": (8, 4, 1, 1),
            "unet.conv_out.weight": (4, 1, 1, 1),
            "unet.time_embedding.linear_1.weight": (1, 1),
            "unet.add_embedding.linear_1.weight": (1, 2816),
            "unet.down_blocks.0.resnets.0.conv1.weight": (64, 1, 1, 1),
            "unet.down_blocks.0.attentions.0.proj_in.weight": (64, 64),
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (
                *(64, 2048),
            ),
            "unet.mid_block.resnets.0.conv1.weight": (64, 1, 1, 1),
        },
        "scales of scales": _only(
            *("a.weight", "a.weight_scale", "a.weight_scale.weight"),
            *("a.weight_scale.weight_scale", "a.scale_weight", ".weight"),
            *(".scale_weight", "weight_scale", "scale_weight"),
        ),
        "numbers of 100 digits": _only(
            "unet.down_blocks." + "9" * 100 + ".resnets.0.conv1.weight",
            "unet.down_blocks.٣.resnets.0.conv1.weight",
            "unet.down_blocks.-1.resnets.0.conv1.weight",
        ),
        "500 dots": _only("." * 500, "unet." * 100, "model.diffusion_model." * 20),
        "3,000 unknown tensors": _only(*(f"a.{i}.weight" for i in range(3_000))),
        "1,000 layers with scales": _only(
            *(f"{i}.{end}" for i in range(1_000) for end in ("weight", "weight_scale"))
        ),
    }
    for name, shapes in (changed | others).items():
        yield Case("models", "odd", name, {FILE: hollow(shapes)}, says=None)
