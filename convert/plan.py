"""What becomes of each tensor of a source: its new name, shape and type."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from math import prod

import mlx.core as mx
import numpy as np

from .dtypes import DTYPES
from .ggml import GGML
from .layouts import LINEAR, POINT, ROWS, SAME, Layout, Shape
from .parameter import Parameter, Parameters
from .readers import Entry
from .recode import ENCODERS, Tensor
from .rules import Outgoing
from .type_rules import FLOATS, TypeRules, keeps_type

# Types that a file may have to do without → what takes their place, as in sd.cpp.
_INSTEAD = {"F64": "F32", "F8_E4M3": "F16", "F8_E5M2": "F16"} | dict.fromkeys(
    GGML, "F16"
)
_NUMBERS = {*FLOATS, *_INSTEAD}  # that can be written in another type

_IN_ORDER = (SAME, POINT, LINEAR, ROWS)  # layouts that leave the numbers in their order


class Planner:
    """Gives tensors their types, and keeps account of what nobody asked for."""

    def __init__(self, types: TypeRules, writable: Collection[str]):
        """
        Args:
            writable: the types that the file to be written can hold.
        """
        self._types, self._writable = types, writable
        self._changes: Counter[tuple[str, str]] = Counter()  # (from, to)
        self._left: Counter[str] = Counter()  # by type

    def part(self, parameters: Parameters, names: Iterable[Outgoing]) -> list[Tensor]:
        """One part's tensors, as they are to be called."""
        return [
            tensor
            for out in names
            for tensor in self.tensor(
                out.name, [parameters[ours] for ours in out.sources], out.layout
            )
        ]

    def tensor(
        self,
        name: str,
        parameters: list[Parameter],
        layout: Layout = SAME,
        is_weight: bool = True,
    ) -> Iterator[Tensor]:
        """A tensor, or none if it can be written in no type.

        Args:
            parameters: all that share it.
            layout: how it is to be written.
            is_weight: what is none keeps its type, if that can be written.
        """
        wanted = self._types.wanted(name) if is_weight else None
        zeros = [mx.zeros(parameter.shape) for parameter in parameters]  # never made
        shape = layout.theirs(*zeros).shape
        sources = _sources(parameters, layout, shape)
        before = parameters[0].entry.dtype
        dtype = self._type(name, shape, before, wanted)
        if dtype is None:
            self._left[before] += 1
            return
        if dtype in GGML and dtype not in ENCODERS and sources[0].dtype != dtype:
            dtype = _INSTEAD[dtype]  # its blocks cannot be made anew
        if dtype != before and (dtype != wanted or before in GGML):
            self._changes[before, dtype] += 1
        yield Tensor(name, dtype, shape, sources)

    def _type(
        self, name: str, shape: Shape, before: str, wanted: str | None
    ) -> str | None:
        """None if it can be written in no type."""
        if before not in _NUMBERS:
            return before if before in self._writable else None
        if wanted and not keeps_type(name, shape, wanted):
            return wanted
        whole = prod(shape[-1:]) % DTYPES[before].block == 0  # blocks in its new rows
        if before in self._writable and whole:
            return before
        return wanted if wanted in FLOATS else _INSTEAD[before]

    def notices(self) -> Iterator[str]:
        """What the user should know, a line each."""
        for (before, after), count in self._changes.items():
            loss = "; what quantising took is not regained" if before in GGML else ""
            yield f"tensors of {before} become {after}: {count}{loss}"
        for dtype, count in self._left.items():
            yield f"tensors of {dtype} left out, which the file cannot hold: {count}"


def _sources(
    parameters: list[Parameter], layout: Layout, shape: Shape
) -> tuple[Entry, ...]:
    """What holds the numbers in the order in which they are to be written."""
    if all(
        parameter.entry.scale is None and _same_order(parameter.layout, layout)
        for parameter in parameters
    ):
        return tuple(parameter.entry for parameter in parameters)
    first = parameters[0].entry
    dtype = first.dtype if first.dtype in FLOATS else "F32"
    raw = partial(_moved, parameters, layout, dtype)
    size = prod(shape) * DTYPES[dtype].size
    return (Entry(first.path, first.name, dtype, shape, size, raw),)


def _same_order(a: Layout, b: Layout) -> bool:
    return a == b or (a in _IN_ORDER and b in _IN_ORDER)


def _moved(parameters: list[Parameter], layout: Layout, dtype: str) -> np.ndarray:
    arrays = [parameter.read().astype(mx.float32) for parameter in parameters]
    values = np.array(layout.theirs(*arrays))
    return ENCODERS[dtype](np.ascontiguousarray(values).reshape(-1))
