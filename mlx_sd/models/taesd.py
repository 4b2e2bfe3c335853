"""Tiny autoencoder: pictures ↔ latents at an eighth of their size, by convolutions.

Its latents are those that the diffusion model works on, without the VAE's scale and
shift. Source: madebyollin/taesd (TAESD, TAESDXL, TAESD3, TAEF1, TAEF2).
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from ..nn.bands import ALL, Bands
from ..nn.linear import Conv2d, Linear
from ..nn.norm import GroupNorm

STAGES = 3  # halvings of the picture's size
BLOCKS = 3  # in each stage
_REACH = 3  # rows that a block reaches, which is three convolutions
_LIMIT = 3.0  # latents go through limit·tanh(z / limit)


@dataclass(frozen=True)
class CoderConfig:
    width: int  # channels between the first and the last convolution
    pool_width: int | None  # of the branch in the stage nearest the latents, if any


@dataclass(frozen=True)
class TaesdConfig:
    channels: int  # of the picture
    latent_channels: int  # 4 SD 1.x, SD 2.x and SDXL, 16 SD3 and FLUX, 32 FLUX.2
    encoder: CoderConfig | None  # None: the file holds a decoder alone
    decoder: CoderConfig | None  # None: the file holds an encoder alone


class Pool(nn.Module):
    """What a block of TAEF2 adds to its input, over the whole picture by its norm."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.widen = Linear(width, inner, bias=False)
        self.norm = GroupNorm(inner, eps=1e-5, groups=4)
        self.narrow = Linear(inner, width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.narrow(nn.relu(self.norm(self.widen(x))))


class Block(nn.Module):
    """Three convolutions with ReLU between, added to the input, and ReLU."""

    def __init__(self, width: int, pool_width: int | None):
        super().__init__()
        if pool_width is not None:
            self.pool = Pool(width, pool_width)
        self.convs = [Conv2d(width, width, 3, padding=1) for _ in range(3)]

    def __call__(self, x: mx.array) -> mx.array:
        if "pool" in self:
            x = x + self.pool(x)
        h = self.convs[0](x)
        for conv in self.convs[1:]:
            h = conv(nn.relu(h))
        return nn.relu(h + x)


class Stage(nn.Module):
    """The blocks of one resolution; `resample` comes before or after them."""

    def __init__(self, width: int, stride: int, pool_width: int | None):
        super().__init__()
        self.blocks = [Block(width, pool_width) for _ in range(BLOCKS)]
        self.resample = Conv2d(width, width, 3, stride=stride, padding=1, bias=False)

    def __call__(self, x: Bands) -> Bands:
        for block in self.blocks:
            if "pool" in block:  # which sees the whole map
                x = Bands([block(x.whole())], x.pixels)
            else:
                x = x.through(block, _REACH)
        return x


class Encoder(nn.Module):
    def __init__(self, config: CoderConfig, channels: int, latent_channels: int):
        super().__init__()
        width = config.width
        self.conv_in = Conv2d(channels, width, 3, padding=1)
        self.block = Block(width, pool_width=None)
        pools = [None] * (STAGES - 1) + [config.pool_width]
        self.stages = [Stage(width, stride=2, pool_width=pool) for pool in pools]
        self.conv_out = Conv2d(width, latent_channels, 3, padding=1)

    def __call__(self, x: Bands) -> Bands:
        x = x.through(self.conv_in).through(self.block, _REACH)
        for stage in self.stages:
            x = stage(x.through(stage.resample, reach=2, scale=0.5))
        return x.through(self.conv_out)


class Decoder(nn.Module):
    def __init__(self, config: CoderConfig, channels: int, latent_channels: int):
        super().__init__()
        width = config.width
        self.conv_in = Conv2d(latent_channels, width, 3, padding=1)
        pools = [config.pool_width] + [None] * (STAGES - 1)
        self.stages = [Stage(width, stride=1, pool_width=pool) for pool in pools]
        self.block = Block(width, pool_width=None)
        self.conv_out = Conv2d(width, channels, 3, padding=1)

    def __call__(self, z: Bands) -> Bands:
        x = z.through(lambda z: nn.relu(self.conv_in(_LIMIT * mx.tanh(z / _LIMIT))))
        for stage in self.stages:
            x = stage(x).through(stage.resample.upsampling, scale=2)
        return x.through(self.block, _REACH).through(self.conv_out)


class TinyAutoencoder(nn.Module):
    """`encoder` or `decoder` is absent where the file does not hold it."""

    def __init__(self, config: TaesdConfig):
        super().__init__()
        self.config = config
        sizes = config.channels, config.latent_channels
        if config.encoder is not None:
            self.encoder = Encoder(config.encoder, *sizes)
        if config.decoder is not None:
            self.decoder = Decoder(config.decoder, *sizes)

    def encode(self, image: mx.array, pixels: int = ALL) -> mx.array:
        """Pictures → latents, evaluated; they are exact, not drawn from a distribution.

        Args:
            image: (B, H, W, 3) in [-1, 1], H and W multiples of 8.
            pixels: to compute at a time, at each resolution; memory grows with them.

        Returns: (B, H/8, W/8, C), in the diffusion model's scale.
        """
        return self.encoder(Bands([(image + 1) / 2], pixels)).whole()

    def decode(self, z: mx.array, pixels: int = ALL) -> mx.array:
        """(B, h, w, C), in that scale → (B, 8h, 8w, 3) in about [-1, 1], evaluated."""
        return 2 * self.decoder(Bands([z], pixels)).whole() - 1
