"""ggml's blocks as MLX's packed weights, whose integers are never turned to floats.

MLX's affine layout (mx.quantize) with groups of 32: value = scale·q + bias, with q the
unsigned integers, each directly above the one before it in a row of 32-bit words.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...kernels.packed import GROUP
from .blocks import pieces
from .unpack import bits, five_bits, five_bits_k, k_scales

Codes = tuple[np.ndarray, np.ndarray, np.ndarray]  # integers, scales, biases


@dataclass(frozen=True)
class Packed:
    """As mx.dequantize takes it, with group_size 32 and mode "affine"."""

    weight: mx.array  # (rows, columns · bits / 32) uint32
    scales: mx.array  # (rows, columns / 32) float16
    biases: mx.array  # (rows, columns / 32) float16
    bits: int


def pack(dtype: str, raw: np.ndarray, shape: tuple[int, int]) -> Packed | None:
    """A tensor's bytes in MLX's layout; None if float16 cannot hold a scale or bias.

    scale·q + bias in float32 equals the type's value, but for the sign of zero, for
    Q4_0 Q4_1 Q5_0 Q5_1 Q8_0. The scales and offsets of Q4_K and Q5_K are products of 17
    bits, rounded here to float16's 11: a value is off by at most
    2^-11·(|scale|·q + |bias|) + 2^-25·(q + 1), the last for subnormal float16.

    None comes of a scale that is infinite or NaN, or a bias beyond 65504, as when Q8_0
    has |d| > 511; no sensible weight has that, and dequantising gives it right.

    Args:
        dtype: one of PACKABLE.
        raw: the stored bytes, uint8.
        shape: (rows, columns) in torch's order; columns are a multiple of the block.
    """
    width, codes = _CODES[dtype]
    rows, columns = shape
    weight = np.empty((rows * columns // 8, width), np.uint8)
    scales = np.empty(rows * columns // GROUP, np.float16)
    biases = np.empty_like(scales)
    with np.errstate(all="ignore"):  # any bytes are valid
        for start, blocks in pieces(dtype, raw):
            q, scale, bias = codes(blocks)
            end = start + q.size
            weight[start // 8 : end // 8] = _join(q, width)
            scales[start // GROUP : end // GROUP] = scale.reshape(-1)
            biases[start // GROUP : end // GROUP] = bias.reshape(-1)
    if not (np.isfinite(scales).all() and np.isfinite(biases).all()):
        return None
    return Packed(
        mx.array(weight.reshape(-1).view(np.uint32).reshape(rows, -1)),
        mx.array(scales.reshape(rows, -1)),
        mx.array(biases.reshape(rows, -1)),
        width,
    )


def _join(q: np.ndarray, width: int) -> np.ndarray:
    """Bytes → (bytes / 8, width): eight integers of `width` bits each, without gaps."""
    q = q.reshape(-1, 8)
    if width == 8:
        return q
    if width == 4:
        pairs = q.view("<u2")
        return (pairs | pairs >> 4).astype(np.uint8)  # their lower bytes
    words = q.view("<u8")
    for held in (8, 16, 32):  # bits of each half of a pair, `used` of which count
        used = held * width // 8
        lower = (2**used - 1) * sum(2**i for i in range(0, 64, 2 * held))
        upper = words >> np.uint64(held - used) & np.uint64(lower << used)
        words = words & np.uint64(lower) | upper
    return words.view(np.uint8)[:, :width]


def _q4_0(blocks: np.ndarray) -> Codes:
    return bits(blocks["q"], 4), *_symmetric(blocks, 8)


def _q4_1(blocks: np.ndarray) -> Codes:
    return bits(blocks["q"], 4), blocks["d"], blocks["m"]


def _q5_0(blocks: np.ndarray) -> Codes:
    return five_bits(blocks), *_symmetric(blocks, 16)


def _q5_1(blocks: np.ndarray) -> Codes:
    return five_bits(blocks), blocks["d"], blocks["m"]


def _q8_0(blocks: np.ndarray) -> Codes:
    return blocks["q"].view(np.uint8) ^ 0x80, *_symmetric(blocks, 128)


def _q4_k(blocks: np.ndarray) -> Codes:
    scales, offsets = k_scales(blocks)
    return bits(blocks["q"], 4), scales, -offsets


def _q5_k(blocks: np.ndarray) -> Codes:
    scales, offsets = k_scales(blocks)
    return five_bits_k(blocks), scales, -offsets


def _symmetric(blocks: np.ndarray, zero: int) -> tuple[np.ndarray, np.ndarray]:
    return blocks["d"], blocks["d"] * np.float16(-zero)


# By type: bits, and what gives a group's integers, scale and bias.
_CODES: dict[str, tuple[int, Callable[[np.ndarray], Codes]]] = {
    "Q4_0": (4, _q4_0),
    "Q4_1": (4, _q4_1),
    "Q5_0": (5, _q5_0),
    "Q5_1": (5, _q5_1),
    "Q8_0": (8, _q8_0),
    "Q4_K": (4, _q4_k),
    "Q5_K": (5, _q5_k),
}
PACKABLE = tuple(_CODES)
