"""AutoencoderKL: pictures ↔ latents at an eighth of their size.

Source: Rombach et al. 2022 (arXiv 2112.10752), appendix G.
"""

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..kernels.settle import settle
from ..nn.attention import Attention
from ..nn.linear import Conv2d, Linear
from ..nn.norm import GroupNorm
from ..nn.resample import Downsample, Upsample
from ..nn.resblock import ResBlock

EPS = 1e-6


@dataclass(frozen=True)
class CoderConfig:
    widths: tuple[int, ...]  # channels at each resolution, the finest first
    blocks: int  # residual blocks at each resolution


@dataclass(frozen=True)
class VaeConfig:
    channels: int  # of the picture
    latent_channels: int
    encoder: CoderConfig | None  # None: the file holds a decoder alone
    decoder: CoderConfig
    quant: bool  # 1x1 convolutions on both sides of the latents


class Moments(NamedTuple):
    """The encoder's Gaussian, per latent value."""

    mean: mx.array
    logvar: mx.array  # log of the variance, clamped to [-30, 20]


def moments(out: mx.array) -> Moments:
    """Of the encoder's output, (B, h, w, 2C)."""
    mean, logvar = mx.split(out, 2, axis=-1)
    return Moments(mean, mx.clip(logvar, -30.0, 20.0))


class MidBlock(nn.Module):
    """Residual block, single-head self-attention over all pixels, residual block."""

    def __init__(self, channels: int):
        super().__init__()
        self.res = [ResBlock(channels, channels, EPS) for _ in range(2)]
        self.norm = GroupNorm(channels, EPS)
        self.attn = Attention(channels, channels, heads=1, bias=True)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.res[0](x)
        B, H, W, C = x.shape
        x = x + self.attn(self.norm(x).reshape(B, H * W, C)).reshape(x.shape)
        return self.res[1](x)


class Level(nn.Module):
    """Residual blocks at one resolution, and the step to the next one."""

    def __init__(self, channels_in: int, channels: int, blocks: int):
        super().__init__()
        self.res = [
            ResBlock(channels if i else channels_in, channels, EPS)
            for i in range(blocks)
        ]

    def layers(self) -> list[nn.Module]:
        """In running order."""
        return [*self.res, *([self.resample] if "resample" in self else [])]


class Encoder(nn.Module):
    def __init__(self, config: CoderConfig, channels: int, out_channels: int):
        super().__init__()
        widths = config.widths
        self.conv_in = Conv2d(channels, widths[0], 3, padding=1)
        self.levels = []
        for i, width in enumerate(widths):
            level = Level(widths[max(i - 1, 0)], width, config.blocks)
            if i < len(widths) - 1:
                level.resample = Downsample(width, one_sided=True)
            self.levels.append(level)
        self.mid = MidBlock(widths[-1])
        self.norm_out = GroupNorm(widths[-1], EPS)
        self.conv_out = Conv2d(widths[-1], out_channels, 3, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.conv_in(x)
        for level in self.levels:
            for layer in level.layers():
                x = layer(x)
        return self.norm_out.into(self.conv_out, self.mid(x))


class Decoder(nn.Module):
    """`levels` are kept finest first, as in the encoder, and run from the last."""

    def __init__(self, config: CoderConfig, channels: int, in_channels: int):
        super().__init__()
        widths = config.widths
        self.conv_in = Conv2d(in_channels, widths[-1], 3, padding=1)
        self.mid = MidBlock(widths[-1])
        self.levels = []
        for i, width in enumerate(widths):
            level = Level(widths[min(i + 1, len(widths) - 1)], width, config.blocks)
            if i > 0:
                level.resample = Upsample(width)
            self.levels.append(level)
        self.norm_out = GroupNorm(widths[0], EPS)
        self.conv_out = Conv2d(widths[0], channels, 3, padding=1)

    def __call__(self, z: mx.array) -> mx.array:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.levels):
            for layer in level.layers():
                x = layer(x)
            # Maps grow fourfold from level to level: without this, MLX holds those of
            # several levels at once.
            settle(x)
        return self.norm_out.into(self.conv_out, x)


class AutoencoderKL(nn.Module):
    def __init__(self, config: VaeConfig):
        super().__init__()
        self.config = config
        latent = config.latent_channels
        if config.encoder is not None:
            self.encoder = Encoder(config.encoder, config.channels, 2 * latent)
            if config.quant:
                self.quant = Linear(2 * latent, 2 * latent)
        if config.quant:
            self.post_quant = Linear(latent, latent)
        self.decoder = Decoder(config.decoder, config.channels, latent)

    def encode(self, image: mx.array) -> Moments:
        """(B, H, W, 3) in [-1, 1] → two (B, H/8, W/8, C), before the latent scale."""
        out = self.encoder(image)
        return moments(self.quant(out) if "quant" in self else out)

    def decode(self, z: mx.array) -> mx.array:
        """(B, h, w, C), the latent scale undone → (B, 8h, 8w, 3), about [-1, 1]."""
        if "post_quant" in self:
            z = self.post_quant(z)
        return self.decoder(z)
