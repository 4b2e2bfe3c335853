"""A tensor of a file → an array in memory, as fast as that memory can be had.

On a CPU the time goes into fresh memory: the kernel hands it out page by page, each at
its first touch. So every value is written once, in its final place, order and type, by
all cores, into pages of 2 MB instead of 4 KB: SD 1.5 in float16 takes a third of the
time that it takes through mx.array, transpose and astype.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from .convert.detect import Parameter
from .kernels.filled import filled

_SHARE = 2 << 20  # bytes to write, between the visits of one thread

Cast = Callable[[np.ndarray, np.ndarray], None]  # from the first into the second


@dataclass(frozen=True)
class Values:
    """A weight's values, in the order that we want and the type that they have."""

    stored: np.ndarray
    dtype: str  # the type that is wanted, as NumPy calls it
    cast: Cast  # from the one to the other


def read(
    parameter: Parameter, dtype: mx.Dtype, over: Literal["ignore", "raise"] = "ignore"
) -> mx.array:
    """The weight, evaluated, in our layout.

    Args:
        dtype: float32, float16 or bfloat16.
        over: "ignore" makes a number beyond float16 infinite, "raise" an error.

    Raises: CheckpointError for a type that we cannot read, or a file that changed;
        FloatingPointError: see `over`.
    """
    if dtype == mx.bfloat16 and parameter.entry.dtype != "BF16":
        weight = read(parameter, mx.float32).astype(dtype)
        mx.eval(weight)
        return weight
    values = mapped(parameter, dtype)

    def cast(stored: np.ndarray, out: np.ndarray) -> None:
        with np.errstate(over=over):  # in the thread that casts
            values.cast(stored, out)

    write = partial(share, cast, values.stored)
    return filled(values.stored.shape, values.dtype, write).view(dtype)


def mapped(parameter: Parameter, dtype: mx.Dtype) -> Values:
    """Where NumPy can read the type in the file, nothing is read yet.

    Raises: as `read`.
    """
    entry = parameter.entry
    kind = entry.dtype
    if kind in _MAPPABLE and entry.scale is None:
        stored = np.asarray(entry.raw()).view(_MAPPABLE[kind]).reshape(entry.shape)
    else:
        kind, stored = "F32", np.asarray(entry.read().astype(mx.float32))
    ours: Any = parameter.layout.ours  # which turns and reshapes NumPy's arrays as well
    return Values(ours(stored), *_CASTS[kind, dtype])


def share(cast: Cast, source: np.ndarray, out: np.ndarray) -> None:
    """Cast a share of the rows at a time, on all cores."""
    count = min(len(out), out.nbytes // _SHARE) if out.ndim else 0
    if count < 2:
        return cast(source, out)
    ends = [len(out) * i // count for i in range(count + 1)]
    shares = [slice(*pair) for pair in pairwise(ends)]
    jobs = [_pool().submit(cast, source[rows], out[rows]) for rows in shares]
    wait(jobs)  # all of them, as an error may give `out`'s memory back
    for job in jobs:
        job.result()


@cache
def _pool() -> ThreadPoolExecutor:
    linux = sys.platform == "linux"
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count()
    return ThreadPoolExecutor(cores, "mlx-sd-weights")


def _convert(source: np.ndarray, out: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):  # as MLX does
        np.copyto(out, source, casting="same_kind")


def _widen(source: np.ndarray, out: np.ndarray) -> None:
    """bfloat16 is the upper half of a float32."""
    np.left_shift(source, 16, out=out, dtype=np.uint32)


def _by_way_of_float32(source: np.ndarray, out: np.ndarray) -> None:
    _convert(np.left_shift(source, 16, dtype=np.uint32).view("<f4"), out)


_MAPPABLE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}

# (type in the file, type wanted) → NumPy's name for the latter, and the way there.
_CASTS: dict[tuple[str, mx.Dtype], tuple[str, Cast]] = {
    ("F32", mx.float32): ("<f4", _convert),
    ("F32", mx.float16): ("<f2", _convert),
    ("F16", mx.float32): ("<f4", _convert),
    ("F16", mx.float16): ("<f2", _convert),
    ("BF16", mx.float32): ("<u4", _widen),
    ("BF16", mx.float16): ("<f2", _by_way_of_float32),
    ("BF16", mx.bfloat16): ("<u2", _convert),
}
