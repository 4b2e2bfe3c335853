"""ggml's quantised types: blocks of bytes → values, or MLX's packed weights."""

from functools import partial

import mlx.core as mx
import numpy as np

from ..dtype import DType
from .blocks import BLOCKS
from .decode import DECODERS
from .iquants import IQUANTS

_STEP = 2**18  # values at a time, so that the work stays in a processor's cache
_PIECE = 2**22  # values at a time put into the result, so that memory stays bounded


def _decode(name: str, data: np.ndarray) -> mx.array:
    """Whole blocks of bytes → flat float32 values.

    Needs 48 MB at most besides the result: a large one is filled piece by piece.
    """
    blocks = np.asarray(data).view(BLOCKS[name].fields)
    step = _PIECE // BLOCKS[name].values
    if len(blocks) <= step:
        return mx.array(_values(name, blocks))
    values = mx.zeros(len(blocks) * BLOCKS[name].values)
    for start in range(0, len(blocks), step):
        piece = mx.array(_values(name, blocks[start : start + step]))
        begin = start * BLOCKS[name].values
        values[begin : begin + piece.size] = piece
        mx.eval(values)  # now: MLX then writes in place
    return values


def _values(name: str, blocks: np.ndarray) -> np.ndarray:
    count = BLOCKS[name].values
    values = np.empty((len(blocks), count), np.float32)
    step = _STEP // count
    with np.errstate(all="ignore"):  # any bytes are valid, and scales may be NaN
        for start in range(0, len(blocks), step):
            some = _DECODERS[name](blocks[start : start + step])
            values[start : start + step] = some.reshape(-1, count)
    return values.reshape(-1)


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
