"""How ggml's types lie in a file: blocks of values, with the scales they share.

In the fields, `d` is the block's scale and `m` its offset; `scales` are small integers
that refine them for parts of the block; `q` are the values' integers, or the low bits
of them, and `high` their high bits. Nothing is aligned.

Source: ggml-common.h of ggml (MIT), whose names for some fields are longer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Block:
    values: int
    fields: np.dtype


def _block(values: int, *fields: tuple) -> Block:
    return Block(values, np.dtype(list(fields)))


_D, _M = ("d", "<f2"), ("m", "<f2")

# Q8_1 is missing: ggml only computes with it, and gguf gives it another size.
BLOCKS: dict[str, Block] = {
    "Q1_0": _block(128, _D, ("q", "u1", 16)),
    "Q4_0": _block(32, _D, ("q", "u1", 16)),
    "Q4_1": _block(32, _D, _M, ("q", "u1", 16)),
    "Q5_0": _block(32, _D, ("high", "u1", 4), ("q", "u1", 16)),
    "Q5_1": _block(32, _D, _M, ("high", "u1", 4), ("q", "u1", 16)),
    "Q8_0": _block(32, _D, ("q", "i1", 32)),
    "Q2_K": _block(256, ("scales", "u1", 16), ("q", "u1", (2, 32)), _D, _M),
    "Q3_K": _block(
        256, ("high", "u1", 32), ("q", "u1", (2, 32)), ("scales", "u1", 12), _D
    ),
    "Q4_K": _block(256, _D, _M, ("scales", "u1", (3, 4)), ("q", "u1", (4, 32))),
    "Q5_K": _block(
        256, _D, _M, ("scales", "u1", (3, 4)), ("high", "u1", 32), ("q", "u1", (4, 32))
    ),
    "Q6_K": _block(
        256, ("q", "u1", (2, 64)), ("high", "u1", (2, 32)), ("scales", "i1", 16), _D
    ),
    "Q8_K": _block(256, ("d", "<f4"), ("q", "i1", 256), ("sums", "<i2", 16)),
    "IQ1_S": _block(256, _D, ("q", "u1", (8, 4)), ("high", "<u2", 8)),
    "IQ1_M": _block(256, ("q", "u1", 32), ("high", "u1", 16), ("scales", "<u2", 4)),
    "IQ2_XXS": _block(256, _D, ("q", [("grid", "u1", 4), ("signs", "<u4")], 8)),
    "IQ2_XS": _block(256, _D, ("q", "<u2", 32), ("scales", "u1", 8)),
    "IQ2_S": _block(
        256,
        _D,
        ("q", "u1", 32),
        ("signs", "u1", 32),
        ("high", "u1", 8),
        ("scales", "u1", 8),
    ),
    "IQ3_XXS": _block(256, _D, ("q", "u1", 64), ("signs", "<u4", 8)),
    "IQ3_S": _block(
        256,
        _D,
        ("q", "u1", 64),
        ("high", "u1", 8),
        ("signs", "u1", 32),
        ("scales", "u1", 4),
    ),
    "IQ4_NL": _block(32, _D, ("q", "u1", 16)),
    "IQ4_XS": _block(
        256, _D, ("scales_high", "<u2"), ("scales", "u1", 4), ("q", "u1", (8, 16))
    ),
    "TQ1_0": _block(256, ("q", "u1", 48), ("rest", "u1", 4), _D),
    "TQ2_0": _block(256, ("q", "u1", (2, 32)), _D),
    "MXFP4": _block(32, ("exponent", "u1"), ("q", "u1", 16)),
    "NVFP4": _block(64, ("scales", "u1", 4), ("q", "u1", (4, 8))),
}

_STEP = 2**18  # values at a time: what is computed from them stays in cache


def pieces(dtype: str, data: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """A tensor's blocks, some at a time, each with the place of its first value."""
    block = BLOCKS[dtype]
    blocks = np.asarray(data).view(block.fields)
    step = _STEP // block.values
    for start in range(0, len(blocks), step):
        yield start * block.values, blocks[start : start + step]
