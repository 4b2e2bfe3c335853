"""Through layers a band of rows at a time, so that their work takes little memory."""

from collections.abc import Callable, Iterable, Iterator

import mlx.core as mx

Rows = Callable[[mx.array], mx.array]

ALL = 1 << 62  # pixels: more than any map has, so that one band is all of it
_LEAST = 4  # rows of a band: fewer are outweighed by those next to them


class Bands:
    """A map, (B, H, W, C), in parts that lie below each other."""

    def __init__(self, parts: Iterable[mx.array], pixels: int):
        self._parts = list(parts)
        self._top = 0  # row where the first of them begins
        self.pixels = pixels

    def whole(self) -> mx.array:
        return mx.concatenate(self._parts, axis=1)

    def through(self, run: Rows, reach: int = 1, scale: float = 1) -> "Bands":
        """The map that `run` makes of this one, which is used up; see `each`."""
        return Bands(self.each(run, reach, scale, last=True), self.pixels)

    def each(
        self, run: Rows, reach: int = 1, scale: float = 1, last: bool = False
    ) -> Iterator[mx.array]:
        """What `run` makes of each band, evaluated.

        Args:
            run: rows → `scale` times as many.
            reach: rows above it, and below, that an outcome depends on.
            last: whether to give up each part as soon as it is used up.
        """
        height = sum(part.shape[1] for part in self._parts)
        width = self._parts[0].shape[2]
        count = self._count(round(width * max(scale, 1)), scale)
        for start in range(0, height, count):
            stop, above = min(start + count, height), min(start, reach)
            out = run(self._rows(start - above, stop + reach))
            first = round(above * scale)
            out = out[:, first : first + round((stop - start) * scale)]
            out = mx.contiguous(out)  # a copy, so that the rows beside it can go
            mx.eval(out)
            if last:
                self._forget(stop - reach)
            yield out

    def _count(self, width: int, scale: float) -> int:
        """Rows of a band that is so wide where it is finest; even, to be halved."""
        rows = max(self.pixels // width, _LEAST)
        return round(rows / max(scale, 1)) // 2 * 2

    def _rows(self, start: int, stop: int) -> mx.array:
        """From `start` to `stop`, or to the end."""
        found, top = [], self._top
        for part in self._parts:
            bottom = top + part.shape[1]
            if top < stop and bottom > start:
                found.append(part[:, max(start - top, 0) : stop - top])
            top = bottom
        return mx.concatenate(found, axis=1)

    def _forget(self, row: int) -> None:
        """What lies above a row."""
        while self._parts and (end := self._top + self._parts[0].shape[1]) <= row:
            del self._parts[0]
            self._top = end


def same(rows: mx.array) -> mx.array:
    return rows
