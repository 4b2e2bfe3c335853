"""ggml's quantised types: blocks of bytes → values, or MLX's packed weights."""

from functools import partial

import mlx.core as mx
import numpy as np

from ..dtype import DType
from .blocks import BLOCKS, pieces
from .decode import DECODERS
from .iquants import IQUANTS

_PIECE = 2**21  # values at a time put into the result, so that memory stays bounded


def _decode(dtype: str, data: np.ndarray) -> mx.array:
    """Whole blocks of bytes → flat float32 values.

    Needs 32 MB at most besides the result: a large one is filled piece by piece.
    """
    block, size = BLOCKS[dtype].values, BLOCKS[dtype].fields.itemsize
    count = len(data) // size * block
    if count <= _PIECE:
        return mx.array(_values(dtype, data))
    values = mx.zeros(count)
    for start in range(0, count, _PIECE):
        end = min(start + _PIECE, count)
        some = _values(dtype, data[start // block * size : end // block * size])
        values[start:end] = mx.array(some)
        mx.eval(values)  # now: MLX then writes in place
    return values


def _values(dtype: str, data: np.ndarray) -> np.ndarray:
    block, size = BLOCKS[dtype].values, BLOCKS[dtype].fields.itemsize
    values = np.empty(len(data) // size * block, np.float32)
    with np.errstate(all="ignore"):  # any bytes are valid, and scales may be NaN
        for start, blocks in pieces(dtype, data):
            some = _DECODERS[dtype](blocks).reshape(-1)
            values[start : start + some.size] = some
    return values


_DECODERS = DECODERS | IQUANTS

GGML: dict[str, DType] = {
    name: DType(block.values, block.fields.itemsize, partial(_decode, name))
    for name, block in BLOCKS.items()
}

# As GGUF numbers them; the missing ones have been withdrawn, but for 9, Q8_1.
TYPE_IDS: dict[str, int] = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 6,
    "Q5_1": 7,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "Q8_K": 15,
    "IQ2_XXS": 16,
    "IQ2_XS": 17,
    "IQ3_XXS": 18,
    "IQ1_S": 19,
    "IQ4_NL": 20,
    "IQ3_S": 21,
    "IQ2_S": 22,
    "IQ4_XS": 23,
    "I8": 24,
    "I16": 25,
    "I32": 26,
    "I64": 27,
    "F64": 28,
    "IQ1_M": 29,
    "BF16": 30,
    "TQ1_0": 34,
    "TQ2_0": 35,
    "MXFP4": 39,
    "NVFP4": 40,
    "Q1_0": 41,
}
