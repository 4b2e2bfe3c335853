"""From a file's bytes to arrays: NumPy says what the values are."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.convert.detect import Parameter
from mlx_sd.convert.layouts import CONV, SAME, Layout
from mlx_sd.convert.readers import Entry
from mlx_sd.weights import filled, read

ALL_FLOAT16 = np.arange(1 << 16, dtype="<u2").view("<f2")
NUMBERS = ALL_FLOAT16[np.isfinite(ALL_FLOAT16)].astype(np.float32)
NUMPY = {mx.float32: np.float32, mx.float16: np.float16}


def parameter(array: np.ndarray, dtype: str, layout: Layout = SAME) -> Parameter:
    """A tensor that a file holds as `array`'s bytes."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    entry = Entry(Path("x"), "x", dtype, array.shape, data.nbytes, lambda: data)
    return Parameter(entry, layout)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper halves of float32 values, which are all that their files hold."""
    return (values.view(np.uint32) >> 16).astype("<u2")


FILES = {  # the type in a file → its bytes for numbers, and those numbers
    "F64": (NUMBERS.astype("<f8"), NUMBERS),
    "F32": (NUMBERS, NUMBERS),
    "F16": (NUMBERS.astype("<f2"), NUMBERS),
    "BF16": (bfloat16(NUMBERS), (NUMBERS.view("<u4") & 0xFFFF0000).view("<f4")),
    "I8": (np.arange(-128, 128).astype("i1"), np.arange(-128, 128)),
}


@pytest.mark.parametrize("dtype", NUMPY, ids=str)
@pytest.mark.parametrize("stored", FILES)
def test_values_are_those_of_the_file(stored, dtype):
    data, values = FILES[stored]
    weight = read(parameter(data, stored), dtype)
    assert weight.dtype == dtype
    np.testing.assert_array_equal(np.array(weight), values.astype(NUMPY[dtype]))


@pytest.mark.parametrize("stored", FILES)
def test_bfloat16_is_rounded_to_nearest(stored):
    data, values = FILES[stored]
    weight = read(parameter(data, stored), mx.bfloat16)
    assert weight.dtype == mx.bfloat16
    error = np.abs(np.array(weight.astype(mx.float32)) - values)
    assert (error <= 2.0**-8 * np.abs(values)).all()  # half of the last of 8 bits


def test_what_float16_cannot_hold_becomes_infinite():
    data = np.array([65504, 70000, -1e9, np.inf, np.nan], np.float32)
    for stored, array in (("F32", data), ("BF16", bfloat16(data))):
        weight = np.array(read(parameter(array, stored), mx.float16))
        assert np.isposinf(weight[[1, 3]]).all() and np.isneginf(weight[2])
        assert np.isnan(weight[4])


@pytest.mark.parametrize("stored", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("rows", [1, 3, 700])  # 700: several shares of 2 MB
def test_convolutions_are_put_in_our_order(stored, rows):
    data, values = (
        np.resize(array[::7], rows * 256 * 9).reshape(rows, 256, 3, 3)
        for array in FILES[stored]
    )
    weight = read(parameter(data, stored, CONV), mx.float32)
    np.testing.assert_array_equal(np.array(weight), values.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_an_array_is_filled_in_place(shape):
    expected = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    array = filled(shape, "<f4", lambda out: np.copyto(out, expected))
    np.testing.assert_array_equal(np.array(array), expected)


def test_an_error_while_filling_reaches_the_caller():
    def write(out: np.ndarray) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        filled((3,), "<f4", write)
