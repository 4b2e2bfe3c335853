"""Weights in MLX's affine layout: 32 integers q in a row share a scale and a bias, and
value = scale·q + bias."""

import math
from typing import NamedTuple

import mlx.core as mx

GROUP = 32  # integers in a row that share a scale and a bias


class Packed(NamedTuple):
    """A weight with rows of K values, K being the product of shape[1:]."""

    words: mx.array  # (rows, K·bits/32) uint32
    scales: mx.array  # (rows, K/32) float16
    biases: mx.array  # (rows, K/32) float16
    shape: tuple[int, ...]

    @property
    def bits(self) -> int:
        return self.words.shape[1] // self.scales.shape[1]


Weight = mx.array | Packed


def dense(weight: Weight, dtype: mx.Dtype) -> mx.array:
    """The weight as an array of that type."""
    if isinstance(weight, mx.array):
        return weight.astype(dtype)
    # In float16, where 8 bits of q and 11 of a scale do not fit, a value is off by
    # at most a tenth of the step between two; in bfloat16 it would be a whole one.
    exact = mx.float32 if dtype == mx.float32 or not _on_gpu() else mx.float16
    scales, biases = weight.scales.astype(exact), weight.biases.astype(exact)
    if _on_gpu():
        rows = mx.dequantize(weight.words, scales, biases, GROUP, weight.bits)
    else:
        q = unpack(weight.words, weight.bits).reshape(*scales.shape, GROUP)
        rows = q.astype(exact) * scales[..., None] + biases[..., None]
    return rows.astype(dtype).reshape(weight.shape)


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


def packed_linear_fits(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    add: mx.array | None = None,
) -> bool:
    """Whether MLX multiplies by the weight as it is, on Metal."""
    return isinstance(weight, Packed) and x.dtype == mx.float16


def packed_linear(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    add: mx.array | None = None,
) -> mx.array:
    assert isinstance(weight, Packed)
    y = mx.quantized_matmul(
        x,
        weight.words,
        weight.scales,
        weight.biases,
        group_size=GROUP,
        bits=weight.bits,
    )
    y = y if bias is None else y + bias
    return y if add is None else y + add


def _on_gpu() -> bool:
    return mx.default_device().type == mx.DeviceType.gpu
