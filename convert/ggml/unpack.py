"""Bit fields of blocks as integers, and integers times scales as values."""

import numpy as np


def bits(packed: np.ndarray, width: int) -> np.ndarray:
    """(..., K) bytes → (..., 8 / width, K): all lowest fields, all next ones, ..."""
    count = 8 // width
    fields = np.empty((*packed.shape[:-1], count, packed.shape[-1]), np.uint8)
    for i in range(count):
        np.right_shift(packed, i * width, out=fields[..., i, :])
    fields &= 2**width - 1
    return fields


def interleaved(packed: np.ndarray, width: int) -> np.ndarray:
    """(..., K) bytes → (..., 8 / width · K): each byte's fields, side by side."""
    fields = bits(packed, width).swapaxes(-1, -2)
    return fields.reshape(*packed.shape[:-1], -1)


def single_bits(packed: np.ndarray) -> np.ndarray:
    """(..., K) bytes → (..., 8 · K), as `interleaved` of width 1, but faster."""
    return np.unpackbits(packed, axis=-1, bitorder="little")


def five_bits(blocks: np.ndarray) -> np.ndarray:
    """(n, 32) the integers of Q5_0 and Q5_1"""
    low = bits(blocks["q"], 4).reshape(-1, 32)
    return low | single_bits(blocks["high"]) << 4


def five_bits_k(blocks: np.ndarray) -> np.ndarray:
    """(n, 8, 32) the integers of Q5_K"""
    low = bits(blocks["q"], 4).reshape(-1, 8, 32)
    return low | bits(blocks["high"], 1) << 4


def k_scales(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 8) the scales and offsets of Q4_K and Q5_K: value = scale·q - offset.

    Both are integers of six bits, times d and m. The first four of each are whole; the
    others' low bits share the last row, and their high bits sit above the first four.
    """
    scales, offsets, low = blocks["scales"].swapaxes(0, 1)
    return (
        times(blocks["d"], np.hstack([scales & 63, low & 15 | scales >> 6 << 4])),
        times(blocks["m"], np.hstack([offsets & 63, low >> 4 | offsets >> 6 << 4])),
    )


def times(scale: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Integers times the scale of their leading axes, in float32."""
    missing = (1,) * (q.ndim - scale.ndim)
    return np.multiply(
        scale.astype(np.float32).reshape(scale.shape + missing), q, dtype=np.float32
    )
