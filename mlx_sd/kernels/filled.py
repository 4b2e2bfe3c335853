"""Arrays of MLX that are written to in place, and only once."""

import ctypes
import io
import mmap
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

_LARGE_PAGE = 2 << 20

Write = Callable[[np.ndarray], None]  # puts values into the array that it is given


def filled(shape: tuple[int, ...], dtype: str, write: Write) -> mx.array:
    """An array of NumPy's `dtype` whose values are written by `write`, in place.

    mx.array copies what it is given, mx.empty fills what it gives. mx.load, however,
    lends the memory of its result to the file-like object that it reads from, and that
    object need not be a file.
    """
    file: Any = _Npy(shape, dtype, write)
    array: Any = mx.load(file, format="npy")
    if file.error is not None:
        raise file.error
    return array


class _Npy:
    """What mx.load asks of a file in NumPy's format; its values are made when read."""

    closed = False

    def __init__(self, shape: tuple[int, ...], dtype: str, write: Write):
        header = _header(shape, dtype)
        self._header, self._body = io.BytesIO(header), len(header)
        self._shape, self._dtype, self._write = shape, dtype, write
        self.error: Exception | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._header.seek(offset, whence)

    def tell(self) -> int:
        return self._header.tell()

    def readinto(self, memory: memoryview) -> int:
        if self.tell() < self._body:
            return self._header.readinto(memory)
        try:
            array = np.frombuffer(memory, self._dtype).reshape(self._shape)
            _use_large_pages(array)
            self._write(array)
        except Exception as error:  # else it would end MLX's thread and the process
            self.error = error
        return len(memory)


@cache
def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    header = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def _use_large_pages(array: np.ndarray) -> None:
    """Ask Linux for them; it need not listen, and elsewhere there is nothing to ask."""
    if sys.platform == "linux" and array.nbytes >= _LARGE_PAGE:
        start, end = array.ctypes.data, array.ctypes.data + array.nbytes
        start, end = start + -start % mmap.PAGESIZE, end - end % mmap.PAGESIZE
        _madvise()(start, end - start, mmap.MADV_HUGEPAGE)


@cache
def _madvise() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
