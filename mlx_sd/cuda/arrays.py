"""Where a recording's arrays lie."""

import hashlib
import math
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..kernels.settle import settle

_ALIGNMENT = 256  # bytes
_TOGETHER = 64 << 20  # bytes
_POINTERS = 480  # a kernel takes 4 KB of arguments


@cache
def _pointing(types: tuple[mx.Dtype, ...]) -> Any:
    """The kernel that puts its arguments, which are pointers, into an array."""
    names = [f"a{i}" for i in range(len(types))]
    return mx.fast.cuda_kernel(
        name=f"addresses_{hashlib.md5(str(types).encode()).hexdigest()}",
        input_names=names,
        output_names=["out"],
        source="".join(f"out[{i}] = (uint64_t){n};" for i, n in enumerate(names)),
        ensure_row_contiguous=False,
    )


@cache
def _beside() -> Any:
    """A stream for what needs nothing that MLX is still computing in its own."""
    return mx.new_thread_local_stream(mx.gpu)


def addresses(arrays: Sequence[mx.array]) -> list[int]:
    """Where on the device evaluated, row-contiguous arrays lie."""
    found: list[mx.array] = []
    for start in range(0, len(arrays), _POINTERS):
        part = arrays[start : start + _POINTERS]
        found += _pointing(tuple(a.dtype for a in part))(
            inputs=part,
            output_shapes=[(len(part),)],
            output_dtypes=[mx.uint64],
            grid=(1, 1, 1),
            threadgroup=(1, 1, 1),
            stream=_beside(),
        )
    mx.eval(found)
    return [at for out in found for at in np.array(out).tolist()]


class Snapshot:
    """What a module and all within it hold now, to see whether that changes.

    Faster than module.parameters(), as it happens once a picture.
    """

    def __init__(self, module: nn.Module):
        self._sizes: list[tuple[Any, int]] = []
        self._items: list[tuple[Any, Any, Any]] = []  # container, key, value
        self._visit(module)

    def _visit(self, container: Any) -> None:
        keyed = isinstance(container, dict)
        self._sizes.append((container, len(container)))
        for key, value in container.items() if keyed else enumerate(container):
            if isinstance(value, (mx.array, dict, list)):
                self._items.append((container, key, value))
                if not isinstance(value, mx.array):
                    self._visit(value)

    def places(self) -> list[tuple[Any, Any]]:
        """Of the arrays: containers and keys."""
        return [
            (c, key) for c, key, value in self._items if isinstance(value, mx.array)
        ]

    def unchanged(self) -> bool:
        return all(len(c) == size for c, size in self._sizes) and all(
            (c.get(key) if isinstance(c, dict) else c[key]) is value
            for c, key, value in self._items
        )


def gather(module: nn.Module, stay: Collection[mx.array] = ()) -> list[mx.array]:
    """Lay the arrays of a module, of one type, side by side in larger ones.

    The module then holds views of those. Whether MLX has moved one of a UNet's hundreds
    of arrays takes 2 ms to see, which a GPU would wait for at every picture.

    Args:
        stay: arrays that are left where they are.
    Returns: the larger ones.
    """
    ids = {id(array) for array in stay}
    # Containers and keys: arrays that were held here would be in memory twice.
    groups: list[list[tuple[Any, Any]]] = [[]]
    size = 0
    for container, key in Snapshot(module).places():
        array = container[key]
        if id(array) in ids:
            continue
        size += array.nbytes
        if size > _TOGETHER and groups[-1]:
            groups.append([])
            size = array.nbytes
        groups[-1].append((container, key))
    memory = [together(places, _ALIGNMENT) for places in groups if places]
    mx.clear_cache()  # of what they lay in, whose sizes nothing else asks for
    return memory


def together(places: Sequence[tuple[Any, Any]], alignment: int = 1) -> mx.array:
    """Arrays as one of one dimension, of which their containers then hold views.

    Args:
        places: containers and keys.
        alignment: bytes, of which each begins at a multiple.
    """
    arrays = [container[key] for container, key in places]
    parts, starts, end = [], [], 0
    for array in arrays:
        starts.append(end)
        parts.append(array.reshape(-1))
        if space := -array.nbytes % alignment // array.itemsize:
            parts.append(mx.zeros((space,), array.dtype))
        end += array.size + space
    whole = mx.concatenate(parts)
    mx.eval(whole)  # before anything is given up for it
    for (container, key), array, at in zip(places, arrays, starts, strict=True):
        container[key] = whole[at : at + array.size].reshape(array.shape)
    settle(*(container[key] for container, key in places))
    return whole


class Arena:
    """Memory given out and taken back; blocks in the order of their addresses."""

    def __init__(self) -> None:
        self.top = 0
        self._free: list[tuple[int, int]] = []  # (start, size)

    def take(self, size: int) -> int:
        """The smallest free block that is large enough, or else more memory."""
        fits = [(s, at) for at, s in self._free if s >= size]
        if not fits:
            if self._free and sum(self._free[-1]) == self.top:
                start, _ = self._free.pop()
            else:
                start = self.top
            self.top = start + size
            return start
        found, start = min(fits)
        self._free.remove((start, found))
        if found > size:
            self._free.append((start + size, found - size))
            self._free.sort()
        return start

    def give(self, start: int, size: int) -> None:
        merged: list[tuple[int, int]] = []
        for block in sorted([*self._free, (start, size)]):
            if merged and sum(merged[-1]) == block[0]:
                merged[-1] = (merged[-1][0], merged[-1][1] + block[1])
            else:
                merged.append(block)
        self._free = merged


class Buffer:
    """An array in the arena, whose place is free again once nobody refers to it."""

    def __init__(
        self, arena: "Arena", base: int, shape: tuple[int, ...], bytes: int = 2
    ):
        self.shape, self.pitch = shape, shape[-1]
        self._arena = arena
        self._size = -(-math.prod(shape) * bytes // _ALIGNMENT) * _ALIGNMENT
        self._start = arena.take(self._size)
        self.at = base + self._start

    def __del__(self) -> None:
        self._arena.give(self._start, self._size)


class View:
    """A buffer in another shape, or columns of its rows, which lie `pitch` apart."""

    def __init__(
        self,
        of: "Buffer | View | Row",
        shape: tuple[int, ...],
        column: int = 0,
        pitch: int | None = None,
    ):
        self._of, self.shape = of, shape
        self.at: int = of.at + 2 * column
        self.pitch = pitch or shape[-1]


class Row:
    """A weight (C,) as an array whose rows are all the same."""

    def __init__(self, at: int, shape: tuple[int, ...]):
        self.at, self.shape, self.pitch = at, shape, 0


Array = Buffer | View | Row
