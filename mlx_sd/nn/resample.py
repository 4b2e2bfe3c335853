"""Changing a feature map's resolution."""

import mlx.core as mx
import mlx.nn as nn

from .linear import Conv2d


def nearest(x: mx.array, height: int, width: int) -> mx.array:
    """(B, H, W, C) → (B, height, width, C): pixel ⌊i·H/height⌋ of each axis."""
    _, H, W, _ = x.shape
    if (height, width) == (2 * H, 2 * W):
        return mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)
    rows = mx.arange(height) * H // height
    columns = mx.arange(width) * W // width
    return mx.take(mx.take(x, rows, axis=1), columns, axis=2)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def __call__(self, x: mx.array, size: tuple[int, int] | None = None) -> mx.array:
        """(B, H, W, C) → (B, height, width, C); size is (2H, 2W) if not given."""
        _, H, W, _ = x.shape
        if size is None or size == (2 * H, 2 * W):
            return self.conv.upsampling(x)
        return self.conv(nearest(x, *size))


class Downsample(nn.Module):
    """3x3 convolution with stride 2; an odd size rounds up.

    The VAE pads the right and bottom edges alone (`one_sided`), the UNet all four.
    """

    def __init__(self, channels: int, one_sided: bool):
        super().__init__()
        padding = 0 if one_sided else 1
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=padding)
        self._one_sided = one_sided

    def __call__(self, x: mx.array) -> mx.array:
        if self._one_sided:
            x = mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
        return self.conv(x)
