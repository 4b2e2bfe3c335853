"""Tensors on their way into a file, piece by piece, in the type that it wants."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..errors import CheckpointError
from .dtypes import DTYPES
from .ggml.quantize import QUANTIZERS
from .layouts import Shape
from .readers import Entry

CHUNK = 1 << 20  # values in a piece: whole blocks of every type, 4 MB of float32

Piece = Callable[[], np.ndarray]  # makes the next bytes of a file, (n,) uint8
Encode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written."""

    name: str
    dtype: str  # a key of DTYPES
    shape: Shape  # as in torch
    sources: tuple[Entry, ...]  # which follow one another along the first axis

    @property
    def nbytes(self) -> int:
        return _nbytes(self.dtype, math.prod(self.shape))

    def pieces(self) -> Iterator[Piece]:
        """Its bytes, in order; those of a type that stays are passed on untouched."""
        for entry in self.sources:
            raw, size = _opened(entry), math.prod(entry.shape)
            for start in range(0, size, CHUNK):
                stop = min(start + CHUNK, size)
                yield partial(self._piece, entry, raw, start, stop)

    def _piece(self, entry: Entry, raw: Piece, start: int, stop: int) -> np.ndarray:
        begin, end = _nbytes(entry.dtype, start), _nbytes(entry.dtype, stop)
        data = raw()[begin:end]
        if entry.dtype == self.dtype:
            return data
        try:
            return ENCODERS[self.dtype](decode(entry.dtype, data))
        except FloatingPointError as error:
            raise CheckpointError(
                f"{entry.path}: {entry.name} holds numbers beyond {self.dtype}"
                f" ({error}); give it another type, such as bf16"
            ) from error


def _opened(entry: Entry) -> Piece:
    """What gives a tensor's bytes to each of its pieces.

    A map of the file is made anew by each, so that the pages that a piece has read go
    with it; what is no map may have cost work, and is kept.
    """
    raw = entry.raw()
    return entry.raw if isinstance(raw, np.memmap) else lambda: raw


def decode(dtype: str, data: np.ndarray) -> np.ndarray:
    """Whole blocks of bytes → float32 values; without MLX for what is plain."""
    if dtype == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype in _NUMPY:
        return data.view(_NUMPY[dtype]).astype(np.float32, copy=False)
    return np.array(DTYPES[dtype].decode(data)).astype(np.float32, copy=False)


def _f16(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="raise", under="ignore"):
        return values.astype("<f2").view(np.uint8)


def _bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to nearest, ties to even; NaN and infinity stay what they are."""
    if not -_ROUNDED_UP < values.min() <= values.max() < _ROUNDED_UP:  # or a NaN
        if ((np.abs(values) >= _ROUNDED_UP) & np.isfinite(values)).any():
            raise FloatingPointError("infinite when rounded")
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    lost = np.isnan(values)
    rounded[lost] = bits[lost] >> 16 | 0x40
    return rounded.astype("<u2").view(np.uint8)


def _quantised(quantizer: Encode, values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if not (low >= -_LARGEST and high <= _LARGEST):  # holds for what is no number too
        raise FloatingPointError(f"they run from {low:.4g} to {high:.4g}")
    return quantizer(values[None]).reshape(-1)


_LARGEST = np.finfo(np.float16).max  # so that blocks' scales, in float16, are finite
_ROUNDED_UP = np.float32(2**128 - 2**119)  # from here on bfloat16 is infinite
_NUMPY = {"F32": "<f4", "F16": "<f2"}

# float32 values → bytes, in whole blocks. Raise FloatingPointError for what is lost.
ENCODERS: dict[str, Encode] = {
    "F32": lambda values: values.astype("<f4", copy=False).view(np.uint8),
    "F16": _f16,
    "BF16": _bf16,
    **{name: partial(_quantised, quantizer) for name, quantizer in QUANTIZERS.items()},
}


def _nbytes(dtype: str, size: int) -> int:
    return size // DTYPES[dtype].block * DTYPES[dtype].size
