"""Every type that a tensor can have in a file, and how its bytes become values."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class DType:
    """Values are stored in blocks of `block` values and `size` bytes."""

    block: int
    size: int
    decode: Callable[[np.ndarray], mx.array]  # whole blocks of bytes → flat values


def _plain(stored: str, wanted: mx.Dtype) -> DType:
    """Numbers that MLX holds as they are, given as NumPy's type of the same width."""

    def decode(data: np.ndarray) -> mx.array:
        return mx.array(np.asarray(data).view(stored)).view(wanted)

    return DType(1, np.dtype(stored).itemsize, decode)


PLAIN: dict[str, DType] = {  # as safetensors spells them
    "F32": _plain("<f4", mx.float32),
    "F16": _plain("<f2", mx.float16),
    "BF16": _plain("<u2", mx.bfloat16),
    "I64": _plain("<i8", mx.int64),
    "I32": _plain("<i4", mx.int32),
    "U8": _plain("u1", mx.uint8),
}

DTYPES: dict[str, DType] = PLAIN
