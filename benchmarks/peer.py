"""The same models in diffusers and transformers, with random weights."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


def unet(device: str, dtype) -> torch.nn.Module:
    model = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8
    )
    return model.to(device, dtype).eval()


def vae(device: str, dtype) -> torch.nn.Module:
    model = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    return model.to(device, dtype).eval()


def clip(device: str, dtype) -> torch.nn.Module:
    config = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        vocab_size=49408,
    )
    return CLIPTextModel(config).to(device, dtype).eval()
