"""SD 1.x in torch: diffusers' and transformers' own classes filled from LDM names.

Nothing here imports mlx_sd. The LDM names are translated by diffusers' converters, and
every load is strict, so each tensor of the checkpoint is proved to be used.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).parents[1]))
import seeded

UNETS = {
    "full": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 768,
    },
    "small": {
        "block_out_channels": (64, 128, 192),
        "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        "cross_attention_dim": 128,
    },
}
VAES = {
    "full": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    "small": {"block_out_channels": (32, 64, 96, 128), "layers_per_block": 1},
}
TEXTS = {
    "full": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 49408,
    },
    "small": {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 1000,
    },
}
SHAPES = {"full": seeded.sd1_shapes, "small": seeded.small_shapes}


def _part(size: str, prefix: str, channels: int = 4) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(seeded.tensor(name, shape))
        for name, shape in seeded.with_inputs(SHAPES[size](), channels).items()
        if name.startswith(prefix)
    }


def _fill(model: torch.nn.Module, state: dict, count: int) -> torch.nn.Module:
    """Strict both ways: each parameter is given, and no LDM tensor went missing."""
    if len(state) != count:
        raise ValueError(f"{count} LDM tensors became {len(state)}")
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def unet(size: str, channels: int = 4) -> UNet2DConditionModel:
    config = dict(
        UNETS[size],
        sample_size=64,
        in_channels=channels,
        out_channels=4,
        layers_per_block=2,
        attention_head_dim=8,  # diffusers' name for the number of heads
    )
    with torch.device("meta"):
        model = UNet2DConditionModel(**config)
    part = _part(size, seeded.UNET, channels)
    return _fill(model, convert_ldm_unet_checkpoint(part, config), len(part))


def vae(size: str) -> AutoencoderKL:
    levels = len(VAES[size]["block_out_channels"])
    config = dict(
        VAES[size],
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=512,
        scaling_factor=0.18215,
    )
    with torch.device("meta"):
        model = AutoencoderKL(**config)
    part = _part(size, seeded.VAE)
    return _fill(model, convert_ldm_vae_checkpoint(part, config), len(part))


def text_encoder(size: str) -> CLIPTextModel:
    config = CLIPTextConfig(
        **TEXTS[size],
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
        bos_token_id=TEXTS[size]["vocab_size"] - 2,
        eos_token_id=TEXTS[size]["vocab_size"] - 1,
    )
    config._attn_implementation = "eager"
    model = CLIPTextModel(config)  # not on "meta": position_ids is a computed buffer
    part = _part(size, seeded.TEXT)
    own = next(iter(model.state_dict()))
    prefix = "text_model." if own.startswith("text_model.") else ""
    state = {prefix + name.removeprefix(seeded.TEXT): t for name, t in part.items()}
    return _fill(model, state, len(part))


def run_unet(model, latent, timestep, context) -> np.ndarray:
    """Predicted noise (B, 4, H, W); timestep may be fractional."""
    times = torch.full((len(latent),), timestep, dtype=torch.float32)
    inputs = torch.from_numpy(latent), times, torch.from_numpy(context)
    return model(*inputs).sample.numpy()


def run_text(model, ids) -> tuple[np.ndarray, np.ndarray]:
    """(B, L, D) states: after the final norm, and before the last layer."""
    out = model(torch.from_numpy(ids), output_hidden_states=True)
    return out.last_hidden_state.numpy(), out.hidden_states[-2].numpy()
