"""Layers whose weight is held in fewer bits than it is computed with.

Each stands in for a layer of mlx.nn, under its name and with its bias. The weight is of
another float type, or packed in MLX's affine layout: in a row, 32 integers q at a time
share a scale and a bias, and value = scale·q + bias. For every use it is made dense
anew, in the input's type, and dropped: on a CPU that takes 0.6 ns per value of 8 bits
and 1.6 of 5, while MLX's product with a packed weight, quantized_matmul, takes 50 times
as long as the dense one.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from .linear import Conv2d, Linear

GROUP = 32  # integers in a row that share a scale and a bias

Weights = dict[str, mx.array]  # "weight", and if that is packed "scales" and "biases"


class Compact(nn.Module):
    """The weights that a layer is given, and the bias that it has.

    Packed, of rows with K values: weight (rows, K·bits/32) uint32, scales and biases
    (rows, K/32) float16.
    """

    def __init__(self, layer: Linear | Conv2d, weights: Weights):
        super().__init__()
        self._shape = layer.weight.shape
        if "bias" in layer:
            self.bias = layer.bias
        for name, array in weights.items():
            self[name] = array

    def dense(self, dtype: mx.Dtype) -> mx.array:
        """The weight, of the shape it has in the layer that this one stands in for."""
        if "scales" not in self:
            return self.weight.astype(dtype)
        # In float16, where 8 bits of q and 11 of a scale do not fit, a value is off by
        # at most a tenth of the step between two; in bfloat16 it would be a whole one.
        exact = mx.float32 if dtype == mx.float32 or not _on_gpu() else mx.float16
        scales, biases = self.scales.astype(exact), self.biases.astype(exact)
        if _on_gpu():
            bits = self._bits()
            rows = mx.dequantize(self.weight, scales, biases, GROUP, bits)
        else:
            q = unpack(self.weight, self._bits()).reshape(*scales.shape, GROUP)
            rows = q.astype(exact) * scales[..., None] + biases[..., None]
        return rows.astype(dtype).reshape(self._shape)

    def _bits(self) -> int:
        return self.weight.shape[1] // self.scales.shape[1]


class CompactLinear(Compact):
    def __call__(self, x: mx.array) -> mx.array:
        """(…, I) → (…, O)"""
        if "scales" in self and x.dtype == mx.float16 and _on_metal():
            y = mx.quantized_matmul(
                x,
                self.weight,
                self.scales,
                self.biases,
                group_size=GROUP,
                bits=self._bits(),
            )
            return y + self.bias if "bias" in self else y
        return kernels.linear(x, self.dense(x.dtype), self.get("bias"))


class CompactConv2d(Compact):
    def __init__(self, layer: Conv2d, weights: Weights):
        super().__init__(layer, weights)
        self._how = layer._how

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, I) → (B, H', W', O)"""
        return kernels.conv(x, self.dense(x.dtype), self.get("bias"), *self._how)

    def upsampling(self, x: mx.array) -> mx.array:
        """As above, of x with each pixel four times; for a size of 3 alone."""
        return kernels.upsample_conv(x, self.dense(x.dtype), self.get("bias"))


COMPACT: dict[type[nn.Module], type[Compact]] = {
    Linear: CompactLinear,
    Conv2d: CompactConv2d,
}


def unpack(words: mx.array, bits: int) -> mx.array:
    """The integers in a row of words, each directly above the one before it.

    A quarter to half of the time that mx.dequantize takes for it on a CPU.

    Args:
        words: (rows, n) uint32.
        bits: of each integer, 1 to 8.

    Returns: flat uint8, 32·rows·n / bits of them.
    """
    count = 8 // math.gcd(bits, 8)  # after so many, an integer begins with a byte again
    data = words.view(mx.uint8).reshape(-1, count * bits // 8)
    integers = []
    for i in range(count):
        byte, bit = divmod(i * bits, 8)
        integer = data[:, byte] >> bit
        if bit + bits > 8:
            integer = integer | data[:, byte + 1] << (8 - bit)
        integers.append(integer)
    return (mx.stack(integers, axis=-1) & (2**bits - 1)).reshape(-1)


def _on_gpu() -> bool:
    return mx.default_device() == mx.Device(mx.gpu)


def _on_metal() -> bool:
    return _on_gpu() and mx.metal.is_available()
