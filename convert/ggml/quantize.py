"""float32 → ggml's blocks, for every type that can be written.

The types of 32 values come out byte for byte as the gguf package makes them: the scale
is read off a block's extremes. The K types are in kquantize.py.
"""

from collections.abc import Callable

import numpy as np

from .blocks import BLOCKS
from .fields import Encode, joined
from .kquantize import K_ENCODERS

_CHUNK = 1024  # blocks at once, so that what is computed on the way stays in cache

# The largest float32 below a half. Added to a magnitude before cutting off, it rounds
# halves up as a half would, and 0.49999997 down as a half would not.
_HALF = np.nextafter(np.float32(0.5), np.float32(0))


def _inverse(scale: np.ndarray) -> np.ndarray:
    """1 / scale; of 0, 0; where that exceeds float32, NaN, which is cast to code 0."""
    inverse = 1 / scale
    inverse[np.isinf(inverse)] = np.nan
    inverse[scale == 0] = 0
    return inverse


def _join(codes: np.ndarray, width: int) -> dict[str, np.ndarray]:
    if width == 4:
        return {"q": joined(codes, 4, run=16)}
    return {"high": joined(codes >> 4, 1, run=1), "q": joined(codes & 15, 4, run=16)}


def _around_zero(width: int) -> Encode:
    """Q4_0, Q5_0: the value of largest magnitude gets code 0, which has no opposite."""
    zero = 1 << (width - 1)

    def encode(blocks: np.ndarray) -> dict[str, np.ndarray]:
        largest = np.abs(blocks).argmax(axis=1)[:, None]
        scale = np.take_along_axis(blocks, largest, axis=1)[:, 0] / -zero
        steps = blocks.T * _inverse(scale)
        steps += np.float32(zero + 0.5)
        codes = np.minimum(steps.astype(np.uint8), 2 * zero - 1)
        return {"d": scale, **_join(codes, width)}

    return encode


def _from_minimum(width: int) -> Encode:
    """Q4_1, Q5_1: the codes divide the range from the smallest value to the largest."""
    top = (1 << width) - 1

    def encode(blocks: np.ndarray) -> dict[str, np.ndarray]:
        low = blocks.min(axis=1)  # along rows as gguf does: it decides the sign of a 0
        scale = (blocks.max(axis=1) - low) / top
        steps = blocks.T - low
        steps *= _inverse(scale)
        steps += np.float32(0.5)
        codes = np.minimum(steps.astype(np.uint8), top)
        return {"d": scale, "m": low, **_join(codes, width)}

    return encode


def _q8_0(blocks: np.ndarray) -> dict[str, np.ndarray]:
    steps = np.array(blocks.T, order="C")
    scale = np.abs(steps).max(axis=0) / 127
    steps *= _inverse(scale)
    steps += np.copysign(_HALF, steps)
    return {"d": scale, "q": steps.astype(np.int8)}


_ENCODERS: dict[str, Encode] = {
    "Q4_0": _around_zero(4),
    "Q4_1": _from_minimum(4),
    "Q5_0": _around_zero(5),
    "Q5_1": _from_minimum(5),
    "Q8_0": _q8_0,
    **K_ENCODERS,
}


def _quantizer(name: str) -> Callable[[np.ndarray], np.ndarray]:
    encode, block, fields = _ENCODERS[name], BLOCKS[name].values, BLOCKS[name].fields

    def quantize(values: np.ndarray) -> np.ndarray:
        rows, columns = values.shape
        blocks = values.reshape(rows * (columns // block), block)
        encoded = np.empty(len(blocks), fields)
        with np.errstate(all="ignore"):
            for at in range(0, len(blocks), _CHUNK):
                chunk = encoded[at : at + _CHUNK]
                for field, data in encode(blocks[at : at + _CHUNK]).items():
                    chunk[field] = data.T.reshape(chunk[field].shape)
        return encoded.view(np.uint8).reshape(rows, columns // block * fields.itemsize)

    return quantize


# (rows, columns) float32 → (rows, bytes) uint8; columns are a multiple of 32, or of 256
# for the K types. Whatever float16 holds fits. Beyond that, scales may be infinite; and
# bytes of infinity or NaN mean nothing. The caller refuses these: nothing here warns.
QUANTIZERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    name: _quantizer(name) for name in _ENCODERS
}
