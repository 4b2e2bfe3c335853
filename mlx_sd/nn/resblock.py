"""The residual block of the UNet and of the VAE."""

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from .linear import Conv2d, Linear
from .norm import GroupNorm


def tiled(x: mx.array, other: mx.array) -> mx.array:
    """(B, …) → (n·B, …), as many as there are of `other`."""
    count = len(other) // len(x)
    return x if count == 1 else mx.concatenate([x] * count)


class ResBlock(nn.Module):
    """Twice norm, SiLU and 3x3 convolution, added to the input.

    With `emb_width` the time embedding shifts the channels half-way (UNet); without,
    there is no such layer (VAE). `skip` exists only where the channel count changes.
    """

    def __init__(
        self, channels_in: int, channels: int, eps: float, emb_width: int | None = None
    ):
        super().__init__()
        self.norm1 = GroupNorm(channels_in, eps)
        self.conv1 = Conv2d(channels_in, channels, 3, padding=1)
        if emb_width is not None:
            self.emb = Linear(emb_width, channels)
        self.norm2 = GroupNorm(channels, eps)
        self.conv2 = Conv2d(channels, channels, 3, padding=1)
        if channels_in != channels:
            self.skip = Linear(channels_in, channels)  # a 1x1 convolution

    def __call__(self, x: mx.array, emb: mx.array | None = None) -> mx.array:
        """(n·B, H, W, C_in), emb (B, D) → (n·B, H, W, C)"""
        h = self.norm1.into(self.conv1, x)
        if emb is not None:
            h = h + tiled(self.emb(kernels.silu(emb)), h)[:, None, None]
        h = self.norm2.into(self.conv2, h)
        return self.skip(x, h) if "skip" in self else h + x
