"""Our configurations as diffusers and transformers write them, in config.json.

Sources: diffusers' UNet2DConditionModel and AutoencoderKL, transformers'
CLIPTextConfig; what is left out has their default.
"""

from collections.abc import Sequence
from typing import Any

from ...errors import CheckpointError
from ...models.clip import ClipConfig
from ...models.unet import UNetConfig
from ...models.vae import VaeConfig

Json = dict[str, Any]

# The oldest diffusers that knows all that we write.
DIFFUSERS = {"_diffusers_version": "0.30.0"}

_SIZE_FEATURES = 256  # SDXL: sines and cosines of each number of the picture's size


def unet_json(config: UNetConfig, sample_size: int) -> Json:
    """
    Args:
        sample_size: rows and columns of the latent of a picture of the default size.
    """
    down, up = map(_depths, (config.down, config.up))
    if not any(config.down[-1]):  # diffusers takes the middle's from the last level
        down[-1] = up[0] = max((1, *config.mid))
    found: Json = {
        "_class_name": "UNet2DConditionModel",
        **DIFFUSERS,
        "sample_size": sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": config.widths,
        "layers_per_block": len(config.down[0]),
        "down_block_types": [_block("Down", level) for level in config.down],
        "mid_block_type": _mid_block(config.mid),
        "up_block_types": [_block("Up", level) for level in config.up],
        "transformer_layers_per_block": _one_or_all(down),
        "reverse_transformer_layers_per_block": None if up == down[::-1] else up,
        "cross_attention_dim": config.context_width,
        "attention_head_dim": _one_or_all(
            config.heads
        ),  # their name for the number of heads
        "only_cross_attention": _one_or_all(config.only_cross),
        "use_linear_projection": config.linear_projections,
    }
    if config.guidance_width is not None:
        found["time_cond_proj_dim"] = config.guidance_width
    if config.vector_width is not None:
        found |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _SIZE_FEATURES,
            "projection_class_embeddings_input_dim": config.vector_width,
        }
    return found


def vae_json(config: VaeConfig, sample_size: int, scale: float) -> Json:
    """
    Args:
        sample_size: width and height in pixels of a picture of the default size.
        scale: of the latents; see families.base.LatentFormat.

    Raises: CheckpointError for a decoder alone, which diffusers has no class for.
    """
    if config.encoder is None:
        raise CheckpointError(
            "the VAE is a decoder alone, and a diffusers folder needs its encoder too; "
            "give a whole one with --vae, or write .safetensors"
        )
    levels = len(config.encoder.widths)
    return {
        "_class_name": "AutoencoderKL",
        **DIFFUSERS,
        "sample_size": sample_size,
        "in_channels": config.channels,
        "out_channels": config.channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": config.encoder.widths,
        "layers_per_block": config.encoder.blocks,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_quant_conv": config.quant,
        "use_post_quant_conv": config.quant,
        "scaling_factor": scale,
    }


def clip_json(config: ClipConfig) -> Json:
    name = "CLIPTextModel" + "WithProjection" * (config.projection is not None)
    return {
        "architectures": [name],
        "model_type": "clip_text_model",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.positions,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": config.activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": config.projection or config.width,
        "bos_token_id": config.eos - 1,
        "eos_token_id": config.eos,
        "pad_token_id": config.eos,
    }


def _block(way: str, depths: tuple[int, ...]) -> str:
    return f"CrossAttn{way}Block2D" if any(depths) else f"{way}Block2D"


def _mid_block(depths: tuple[int, ...]) -> str | None:
    if not depths:
        return None
    return "UNetMidBlock2DCrossAttn" if any(depths) else "UNetMidBlock2D"


def _depths(levels: Sequence[tuple[int, ...]]) -> list[Any]:
    """Where a level has no transformers its number means nothing."""
    return [_one_or_all(level) if any(level) else 1 for level in levels]


def _one_or_all(values: Sequence[Any]) -> Any:
    """One value if all are alike."""
    return values[0] if all(value == values[0] for value in values) else values
