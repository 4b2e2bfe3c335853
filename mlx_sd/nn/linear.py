"""The layers with a matrix of weights."""

import mlx.core as mx
import mlx.nn as nn

from .. import kernels


class Linear(nn.Linear):
    def __call__(self, x: mx.array, add: mx.array | None = None) -> mx.array:
        """(…, I) → (…, O), and `add` added to it"""
        return kernels.linear(x, self.weight, self.get("bias"), add)


class Conv2d(nn.Conv2d):
    """A convolution without dilation or groups, as far in each direction."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ):
        super().__init__(channels_in, channels, size, stride, padding, bias=bias)
        self._how = stride, padding

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, I) → (B, H', W', O)"""
        return kernels.conv(x, self.weight, self.get("bias"), *self._how)

    def held(self) -> mx.array:
        """The weight as kernels take it."""
        return self.weight

    def upsampling(self, x: mx.array) -> mx.array:
        """As above, of x with each pixel four times; for a size of 3 alone."""
        return kernels.upsample_conv(x, self.weight, self.get("bias"))
