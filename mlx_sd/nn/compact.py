"""Layers whose weight is held in fewer bits than it is computed with.

Each stands in for a layer of linear.py, under its name and with its bias. The weight is
of another float type, or packed; see kernels/packed.py. Kernels widen it at every use.
"""

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..kernels.packed import Packed, Weight, dense
from .linear import Conv2d, Linear

Weights = dict[str, mx.array]  # "weight", and if that is packed "scales" and "biases"


class Compact(nn.Module):
    """The weights that a layer is given, and the bias that it has."""

    def __init__(self, layer: Linear | Conv2d, weights: Weights):
        super().__init__()
        self._shape = layer.weight.shape
        if "bias" in layer:
            self.bias = layer.bias
        for name, array in weights.items():
            self[name] = array

    def held(self) -> Weight:
        if "scales" not in self:
            return self.weight
        return Packed(self.weight, self.scales, self.biases, self._shape)

    def dense(self, dtype: mx.Dtype) -> mx.array:
        """The weight, of the shape it has in the layer that this one stands in for."""
        return dense(self.held(), dtype)


class CompactLinear(Compact):
    def __call__(self, x: mx.array, add: mx.array | None = None) -> mx.array:
        """(…, I) → (…, O), and `add` added to it"""
        return kernels.linear(x, self.held(), self.get("bias"), add)


class CompactConv2d(Compact):
    def __init__(self, layer: Conv2d, weights: Weights):
        super().__init__(layer, weights)
        self._how = layer._how

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, I) → (B, H', W', O)"""
        return kernels.conv(x, self.held(), self.get("bias"), *self._how)

    def upsampling(self, x: mx.array) -> mx.array:
        """As above, of x with each pixel four times; for a size of 3 alone."""
        return kernels.upsample_conv(x, self.held(), self.get("bias"))


COMPACT: dict[type[nn.Module], type[Compact]] = {
    Linear: CompactLinear,
    Conv2d: CompactConv2d,
}
