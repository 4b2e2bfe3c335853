"""The values of the IQ types of 1 to 3 bits: points of a grid, signs and scales.

Scales are d·(2·s + 1) times a power of two. All these products are exact in float32.

Source: the dequantize_row_iq* functions of ggml-quants.c (MIT).
"""

from collections.abc import Callable

import numpy as np

from .grids import GRIDS
from .unpack import interleaved, single_bits, times

_BYTES = np.arange(256, dtype=np.uint8)[:, None]
_SIGNS = (1 - 2 * single_bits(_BYTES)).view(np.int8)  # by byte: (256, 8)
_ODD = single_bits(_BYTES[:128]).sum(1, np.uint8) & 1
_EVEN_SIGNS = _SIGNS[_BYTES[:128, 0] | _ODD << 7]  # of seven bits: (128, 8)


def _rows(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """table[index] of rows of 4 or 8 bytes, each taken as one integer."""
    whole = table.view(f"u{table.shape[1]}")
    return np.take(whole, index)[..., None].view(np.int8)


def _scale(d: np.ndarray, small: np.ndarray, shift: int) -> np.ndarray:
    return times(d, (2 * small + 1).astype(np.uint8)) * np.float32(2.0**shift)


def _values(scale: np.ndarray, points: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Scales (n, G), points of (n, 256) values in all, signs (n, 32, 8)."""
    q = points.reshape(signs.shape) * signs
    return times(scale, q.reshape(*scale.shape, -1))


def _even_signs(packed: np.ndarray) -> np.ndarray:
    """(n, 8) of four times seven bits → (n, 32, 8)"""
    seven = packed[..., None] >> np.arange(0, 28, 7, dtype=np.uint32) & 127
    return _rows(_EVEN_SIGNS, seven.reshape(-1, 32))


def _iq2_xxs(blocks: np.ndarray) -> np.ndarray:
    index, signs = blocks["q"]["grid"], blocks["q"]["signs"]
    scale = _scale(blocks["d"], signs >> 28, -3)
    return _values(scale, _rows(GRIDS["IQ2_XXS"], index), _even_signs(signs))


def _iq2_xs(blocks: np.ndarray) -> np.ndarray:
    points = _rows(GRIDS["IQ2_XS"], blocks["q"] & 511)
    scale = _scale(blocks["d"], interleaved(blocks["scales"], 4), -3)
    return _values(scale, points, _rows(_EVEN_SIGNS, blocks["q"] >> 9))


def _iq2_s(blocks: np.ndarray) -> np.ndarray:
    index = _joined(blocks["q"], interleaved(blocks["high"], 2))
    scale = _scale(blocks["d"], interleaved(blocks["scales"], 4), -3)
    return _values(scale, _rows(GRIDS["IQ2_S"], index), _rows(_SIGNS, blocks["signs"]))


def _iq3_xxs(blocks: np.ndarray) -> np.ndarray:
    scale = _scale(blocks["d"], blocks["signs"] >> 28, -2)
    points = _rows(GRIDS["IQ3_XXS"], blocks["q"])
    return _values(scale, points, _even_signs(blocks["signs"]))


def _iq3_s(blocks: np.ndarray) -> np.ndarray:
    index = _joined(blocks["q"], single_bits(blocks["high"]))
    scale = _scale(blocks["d"], interleaved(blocks["scales"], 4), 0)
    return _values(scale, _rows(GRIDS["IQ3_S"], index), _rows(_SIGNS, blocks["signs"]))


def _iq1_s(blocks: np.ndarray) -> np.ndarray:
    high = blocks["high"]
    index = _joined(blocks["q"], _three_bits(high))
    shift = np.where(high >> 15, np.int8(-1), np.int8(1))[..., None, None]
    scale = _scale(blocks["d"], high >> 12 & 7, -3)
    return times(scale, _rows(_EIGHTFOLD, index) + shift)


def _iq1_m(blocks: np.ndarray) -> np.ndarray:
    high, scales = interleaved(blocks["high"], 4), blocks["scales"]
    index = _joined(blocks["q"], high & 7)
    shift = np.where(high >> 3, np.int8(-1), np.int8(1))[..., None]
    tops = scales >> 12 << np.arange(0, 16, 4, dtype=np.uint16)  # d, in four parts
    d = np.bitwise_or.reduce(tops, axis=1).view(np.float16)
    scale = _scale(d, _three_bits(scales).reshape(-1, 16), -3)
    return times(scale, (_rows(_EIGHTFOLD, index) + shift).reshape(-1, 16, 16))


# The points of IQ1 are moved by an eighth up or down; eight times that is whole.
_EIGHTFOLD = 8 * GRIDS["IQ1_S"]


def _joined(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return low | high.astype(np.uint16) << 8


def _three_bits(packed: np.ndarray) -> np.ndarray:
    """(..., K) of 16 bits → (..., K, 4) of the lowest 12"""
    return packed[..., None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7


IQUANTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "IQ1_S": _iq1_s,
    "IQ1_M": _iq1_m,
    "IQ2_XXS": _iq2_xxs,
    "IQ2_XS": _iq2_xs,
    "IQ2_S": _iq2_s,
    "IQ3_XXS": _iq3_xxs,
    "IQ3_S": _iq3_s,
}
