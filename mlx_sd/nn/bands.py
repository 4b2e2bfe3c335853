"""Through layers a band of rows at a time, so that their work takes little memory."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import mlx.core as mx

from ..kernels.settle import settle

Rows = Callable[..., Any]  # rows of each map → of one map, or a tuple of several

ALL = 1 << 62  # pixels: more than any map has, so that one band is all of it
_LEAST = 4  # rows of a band: fewer are outweighed by those next to them


class Bands:
    """Maps of one size, (B, H, W, C), in parts that lie below each other."""

    def __init__(self, parts: Iterable[Any], pixels: int):
        """
        Args:
            parts: of a map, or tuples of one of each.
        """
        self._parts = [part if isinstance(part, tuple) else (part,) for part in parts]
        self._top = 0  # row where the first of them begins
        self.pixels = pixels

    def parts(self) -> list[mx.array]:
        """Those of the first map."""
        return [first for first, *_ in self._parts]

    def whole(self) -> mx.array:
        return mx.concatenate(self.parts(), axis=1)

    def through(self, run: Rows, reach: int = 1, scale: float = 1) -> "Bands":
        """The maps that `run` makes of these, which are used up; see `each`."""
        return Bands(self.each(run, reach, scale, last=True), self.pixels)

    def each(
        self, run: Rows, reach: int = 1, scale: float = 1, last: bool = False
    ) -> Iterator[Any]:
        """What `run` makes of each band, evaluated.

        Args:
            run: rows → `scale` times as many.
            reach: rows above it, and below, that an outcome depends on.
            last: whether to give up each part as soon as it is used up.
        """
        height = sum(part.shape[1] for part in self.parts())
        width = self._parts[0][0].shape[2]
        count = self._count(round(width * max(scale, 1)), scale)
        for start in range(0, height, count):
            stop, above = min(start + count, height), min(start, reach)
            made = run(*self._rows(start - above, stop + reach))
            first = round(above * scale)
            rows = slice(first, first + round((stop - start) * scale))
            # A copy, so that the rows beside it can go.
            out = [
                mx.contiguous(one[:, rows])
                for one in (made if isinstance(made, tuple) else (made,))
            ]
            settle(*out)
            if last:
                self._forget(stop - reach)
            yield tuple(out) if isinstance(made, tuple) else out[0]

    def _count(self, width: int, scale: float) -> int:
        """Rows of a band that is so wide where it is finest; even, to be halved."""
        rows = max(self.pixels // width, _LEAST)
        return round(rows / max(scale, 1)) // 2 * 2

    def _rows(self, start: int, stop: int) -> list[mx.array]:
        """Of each map, from `start` to `stop`, or to the end."""
        found, top = [], self._top
        for part in self._parts:
            bottom = top + part[0].shape[1]
            if top < stop and bottom > start:
                rows = slice(max(start - top, 0), stop - top)
                found.append([one[:, rows] for one in part])
            top = bottom
        return [mx.concatenate(list(ones), axis=1) for ones in zip(*found, strict=True)]

    def _forget(self, row: int) -> None:
        """What lies above a row."""
        while self._parts:
            end = self._top + self._parts[0][0].shape[1]
            if end > row:
                break
            del self._parts[0]
            self._top = end


def same(rows: mx.array) -> mx.array:
    return rows
