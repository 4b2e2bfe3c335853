"""Arrays whose memory holds anything yet."""

import io
import math
from typing import Any

import mlx.core as mx
import numpy as np


class _Nothing:
    """A .npy file of float32 numbers that are not there: reading it writes none."""

    closed = False

    def __init__(self, shape: tuple[int, ...]):
        head = io.BytesIO()
        about = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, about)
        self._head, self._at = head.getvalue(), 0

    def seek(self, offset: int, whence: int = 0) -> None:
        self._at = offset + (0, self._at, len(self._head))[whence]

    def tell(self) -> int:
        return self._at

    def readinto(self, place: memoryview) -> int:
        if self._at < len(self._head):
            place[:] = self._head[self._at : self._at + len(place)]
        self._at += len(place)
        return len(place)


_LARGE = 1 << 19  # numbers; MLX fills fewer in the time that reading nothing takes


def unwritten(shape: tuple[int, ...]) -> mx.array:
    """Memory for float32 numbers to be written to.

    MLX has no other way to make an array without filling it, which takes one core a
    tenth of the time that all need for what comes there.
    """
    if math.prod(shape) < _LARGE:
        return mx.empty(shape, mx.float32)
    file: Any = _Nothing(shape)
    array: Any = mx.load(file, format="npy")
    return array
