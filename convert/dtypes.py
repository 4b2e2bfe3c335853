"""Every type that a tensor can have in a file, and how its bytes become values."""

import mlx.core as mx
import numpy as np

from .dtype import DType
from .ggml import GGML


def _plain(stored: str, wanted: mx.Dtype) -> DType:
    """Numbers that MLX holds as they are, given as NumPy's type of the same width."""

    def decode(data: np.ndarray) -> mx.array:
        return mx.array(np.asarray(data).view(stored)).view(wanted)

    return DType(1, np.dtype(stored).itemsize, decode)


def _from_float64(data: np.ndarray) -> mx.array:
    """In float32: MLX has float64 on the CPU alone."""
    with np.errstate(over="ignore"):
        return mx.array(np.asarray(data).view("<f8").astype(np.float32))


def _from_bool(data: np.ndarray) -> mx.array:
    return mx.array(np.asarray(data) != 0)


def _from_e4m3(data: np.ndarray) -> mx.array:
    return mx.array(_E4M3[data])


def _from_e5m2(data: np.ndarray) -> mx.array:
    """E5M2 is the upper half of a float16."""
    return mx.array((np.asarray(data).astype("<u2") << 8).view("<f2"))


def _e4m3_values() -> np.ndarray:
    """Code → value in float16, which holds them all: e4m3fn of arXiv 2209.05433.

    The same bits in float16's fields, whose exponent bias is 15 instead of 7, stand
    for 2^-8 of the value, subnormals too. There is no infinity; all ones is no number.
    """
    codes = np.arange(256, dtype="<u2")
    bits = (codes & 0x80) << 8 | (codes & 0x7F) << 7
    values = bits.view("<f2") * np.float16(256)
    values[[0x7F, 0xFF]] = np.nan
    return values


_E4M3 = _e4m3_values()

PLAIN: dict[str, DType] = {  # as safetensors spells them
    "F64": DType(1, 8, _from_float64),
    "F32": _plain("<f4", mx.float32),
    "F16": _plain("<f2", mx.float16),
    "BF16": _plain("<u2", mx.bfloat16),
    "F8_E4M3": DType(1, 1, _from_e4m3),
    "F8_E5M2": DType(1, 1, _from_e5m2),
    "I64": _plain("<i8", mx.int64),
    "I32": _plain("<i4", mx.int32),
    "I16": _plain("<i2", mx.int16),
    "I8": _plain("i1", mx.int8),
    "U64": _plain("<u8", mx.uint64),
    "U32": _plain("<u4", mx.uint32),
    "U16": _plain("<u2", mx.uint16),
    "U8": _plain("u1", mx.uint8),
    "BOOL": DType(1, 1, _from_bool),
}

DTYPES: dict[str, DType] = PLAIN | GGML
