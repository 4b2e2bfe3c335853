"""A GPU's part in a recording, played by NumPy and MLX's CPU: mlx_sd/cuda without CUDA.

It stands in below the recorder, for the driver and the libraries, and does at addresses
in its own memory what kernels and libraries would. So it shows that a network's work is
recorded as it should be; what the kernels themselves compute only a GPU shows. Memory
is filled with what is no number before it is used, and again when it is given back.
"""

import inspect
import re
from ctypes import c_void_p
from functools import partial
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_sd.cuda import arrays, blas, recorder, recording, transfer, unet, vae
from mlx_sd.kernels import reference
from mlx_sd.nn.embed import timestep_embedding
from mlx_sd.nn.resample import nearest

_DTYPES = {name: dtype for dtype, name in recorder.TYPES.items()}
_SOURCES = Path(recorder.__file__).parent
_CLUSTER = re.compile(r"(?<=group_norm_)\d+$")


def install(monkeypatch) -> "Device":
    """Let recordings be made on an emulated device."""
    device = Device()
    for module in (unet, vae):
        monkeypatch.setattr(module, "available", lambda: True)
    for module in (unet, recording):
        monkeypatch.setattr(module, "Stream", partial(Stream, device))
    for name in ("put", "get"):
        monkeypatch.setattr(transfer, name, getattr(device, name))
    monkeypatch.setattr(recording, "addresses", device.addresses)
    for name in ("kernels", "convolution", "scaled_attention", "Product"):
        monkeypatch.setattr(recorder, name, partial(globals()[name], device))
    monkeypatch.setattr(recorder, "matrix", Map)
    monkeypatch.setattr(recorder, "processors", lambda: 132)
    monkeypatch.setattr(recorder, "_generation", lambda: 9)
    begin, give = recorder.Recorder.record, arrays.Arena.give

    def record(self, base, stream):
        begin(self, base, stream)
        device.arena, device.base = self.arena, base

    def given(self, start, size):
        give(self, start, size)
        if self is device.arena:
            device.do(partial(device.spoil, device.base + start, size))

    monkeypatch.setattr(recorder.Recorder, "record", record)
    monkeypatch.setattr(arrays.Arena, "give", given)
    return device


class Device:
    """Memory by address, and what is done there."""

    def __init__(self):
        self._places: dict[int, tuple[mx.array, int]] = {}  # by an array's id
        self._memory: dict[int, np.ndarray] = {}  # bytes by their first address
        self._next = 1 << 40
        self.captured: list | None = None
        self.arena, self.base = None, 0

    def addresses(self, arrays) -> list[int]:
        for array in arrays:
            if id(array) not in self._places:
                values = np.array(mx.contiguous(array).view(mx.uint8)).reshape(-1)
                if array.dtype == mx.uint64:  # a recording's own memory
                    values = np.full(array.nbytes, 255, np.uint8)
                    values[:16] = 0  # its words
                self._places[id(array)] = array, self._next
                self._memory[self._next] = values
                self._next += (-(-values.size // 4096) + 1) * 4096  # with a gap
        return [self._places[id(array)][1] for array in arrays]

    def move(self, array: mx.array) -> None:
        """To another place, as MLX does with what a CPU reads."""
        _, place = self._places[id(array)]
        self._places[id(array)] = array, self._next
        self._memory[self._next] = self._memory[place].copy()
        self._next += (-(-array.nbytes // 4096) + 1) * 4096
        self._memory[place][:] = 255

    def bits(self, at: int, shape, type=np.uint16, pitch: int | None = None):
        """What lies at an address, to be read and written; numpy checks the bounds."""
        start = max(place for place in self._memory if place <= at)
        size, step = np.dtype(type).itemsize, 1
        strides = []
        for length in reversed(shape):
            strides.append(size * step)
            step *= pitch if pitch is not None and len(strides) == 1 else length
        memory = self._memory[start]
        return np.ndarray(shape, type, memory, at - start, tuple(reversed(strides)))

    def spoil(self, at: int, size: int) -> None:
        self.bits(at, (size,), np.uint8)[:] = 255

    def load(self, dtype: mx.Dtype, at: int, *shape: int, pitch=None) -> mx.array:
        bits = np.ascontiguousarray(self.bits(at, shape, pitch=pitch))
        return mx.array(bits).view(dtype).astype(mx.float32)

    def store(self, dtype: mx.Dtype, at: int, values: mx.array, pitch=None) -> None:
        bits = np.array(values.astype(dtype).view(mx.uint16))
        self.bits(at, values.shape, pitch=pitch)[:] = bits

    def word(self, at: int) -> np.ndarray:
        return self.bits(at, (1,), np.uint32)

    def do(self, work) -> None:
        """Now, or when the graph is launched that is being captured."""
        work() if self.captured is None else self.captured.append(work)

    def put(self, values, words: int) -> None:
        for array, at in values:
            data = np.array(mx.contiguous(array).view(mx.uint8)).reshape(-1)
            self.bits(at, data.shape, np.uint8)[:] = data
        self.word(words + 4)[:] = 0
        self.word(words)[:] = 1

    def get(self, at: int, shape, dtype: mx.Dtype, words: int) -> mx.array:
        assert self.word(words + 4) == 1, "the work was not done"
        self.word(words + 4)[:] = 0
        return self.load(dtype, at, *shape).astype(dtype)


class Stream:
    def __init__(self, device: Device):
        self._device = device

    def synchronize(self) -> None:
        assert self._device.captured is None

    def begin_capture(self) -> None:
        self._device.captured = []

    def end_capture(self) -> "Graph":
        graph, self._device.captured = Graph(self._device.captured), None
        return graph


class Graph:
    def __init__(self, work: list):
        self._work = work

    def launch(self) -> None:
        for part in self._work:
            part()


def kernels(device: Device, file: str, type: str, *defines: str):
    return Kernels(device, file, _DTYPES[type], dict(d.split("=") for d in defines))


class Kernels:
    def __init__(self, device: Device, file: str, dtype: mx.Dtype, defines: dict):
        self._device, self._dtype, self._defines = device, dtype, defines
        text = (_SOURCES / f"{file}.cu").read_text().replace("\\\n", " ")
        self._parameters = {
            name.replace("##CLUSTER", ""): parameters.split(",")
            for name, parameters in re.findall(
                r"__global__ void\s+(?:__\w+__\([^)]*\)\s+)*([\w#]+)\(([^)]*)\)", text
            )
        }

    def __getitem__(self, name: str) -> "Kernel":
        parameters = self._parameters[_CLUSTER.sub("", name)]
        run = globals()["_" + _CLUSTER.sub("", name).strip("_")]
        return Kernel(self._device, self._dtype, parameters, run, self._defines)


class Map(NamedTuple):
    """What driver.matrix gives."""

    dtype: mx.Dtype
    address: int
    rows: int
    columns: int
    pitch: int

    def load(self, device: Device) -> mx.array:
        assert self.address % 16 == 0 and self.pitch % 8 == 0
        size = self.rows, self.columns
        return device.load(self.dtype, self.address, *size, pitch=self.pitch)


class Kernel:
    """One of those in the .cu files: its arguments are checked, its work played."""

    def __init__(self, device, dtype, parameters, run, defines):
        self._device, self._dtype, self._parameters = device, dtype, parameters
        self._run, self._defines = run, defines

    def launch(self, stream, grid, threads, shared, *args) -> None:
        assert isinstance(stream, Stream)
        assert min(grid) > 0 and 0 < threads <= 1024 and 0 <= shared <= 227 << 10
        for declared, arg in zip(self._parameters, args, strict=True):
            kinds = {"*": c_void_p, "float": float, "Map": Map}
            wanted = next((kinds[k] for k in kinds if k in declared), int)
            assert type(arg) is wanted, (self._run.__name__, declared)
        plain = [a.value or 0 if isinstance(a, c_void_p) else a for a in args]
        here = self._device, self._dtype, grid
        self._device.do(partial(self._run, *here, *plain, **self._defines))


# --- Kernels: the device, the type, the grid, then their own arguments ---


def _normed(d, t, x, w, b, shift, stride, eps, out, B, pixels, C, groups, silu):
    values = d.load(t, x, B, pixels, C)
    if shift:
        values = values + d.load(t, shift, B, 1, C, pitch=stride)
    w, b = (d.load(t, at, C) for at in (w, b))
    values = values[:, :, None]
    y = reference.group_norm(values, w, b, groups, eps, bool(silu))
    d.store(t, out, y[:, :, 0])


def _group_norm(d, t, grid, x, w, b, shift, stride, eps, out, *sizes):
    pixels, C, groups, columns, silu = sizes
    cluster, bundles, B = grid
    assert bundles * columns * 8 == C and columns * 8 % (C // groups) == 0
    _normed(d, t, x, w, b, shift, stride, eps, out, B, pixels, C, groups, silu)


def _group_sums(d, t, grid, x, shift, stride, sums, pixels, C, groups):
    slabs, B, _ = grid
    assert C % 8 == 0
    d.bits(sums, (B, slabs, groups, 2), np.float32)[:] = slabs


def _group_apply(d, t, grid, x, w, b, shift, stride, sums, slabs, eps, out, *sizes):
    pixels, C, groups, silu = sizes
    B = grid[1]
    assert (d.bits(sums, (B, slabs, groups, 2), np.float32) == slabs).all()
    _normed(d, t, x, w, b, shift, stride, eps, out, B, pixels, C, groups, silu)


def _layer_norm(d, t, grid, x, w, b, eps, out, rows, D):
    assert 4 * grid[0] >= rows and D % 8 == 0 and D <= 2048
    w, b = (d.load(t, at, D) for at in (w, b))
    d.store(t, out, reference.layer_norm(d.load(t, x, rows, D), w, b, eps))


def _geglu(d, t, grid, x, out, rows, width):
    d.store(t, out, reference.geglu(d.load(t, x, rows, 16 * width)))


def _gated(d, t, grid, x, w, bias, out, words, rows, width, depth):
    assert depth % 8 == width % 8 == 0 and grid[0] <= 132
    assert words % 256 == 8  # behind those of transfer.py
    assert (d.bits(words, (2,), np.uint32) == 0).all()
    assert (x.rows, w.rows) == (rows, 2 * width) and x.columns == w.columns == depth
    both = x.load(d) @ w.load(d).T + d.load(t, bias, 2 * width)
    d.store(t, out, reference.geglu(both))


def _add(d, t, grid, a, b, out, count):
    d.store(t, out, d.load(t, a, 8 * count) + d.load(t, b, 8 * count))


def _add_bias(d, t, grid, a, b, bias, out, count, C):
    shape = count // C, 8 * C
    total = d.load(t, a, *shape) + d.load(t, b, *shape) + d.load(t, bias, 8 * C)
    d.store(t, out, total)


def _add_channel(d, t, grid, x, bias, out, count, C):
    d.store(t, out, d.load(t, x, count // C, C) + d.load(t, bias, C))


def _add_channels(d, t, grid, x, bias, out, count, C):
    _add_channel(d, t, grid, x, bias, out, 8 * count, 8 * C)


def _silu_each(d, t, grid, x, out, count):
    d.store(t, out, reference.silu(d.load(t, x, 8 * count)))


def _timesteps(d, t, grid, times, out, width, period):
    given = mx.array(d.bits(times, grid[:1], np.float32).copy())
    assert period == 10_000
    d.store(t, out, timestep_embedding(given, width))


def _concat(d, t, grid, a, b, out, pixels, A, B):
    both = d.load(t, a, pixels, 8 * A), d.load(t, b, pixels, 8 * B)
    d.store(t, out, mx.concatenate(both, axis=1))


def _nearest(d, t, grid, x, out, images, H, W, C, height, width):
    d.store(t, out, nearest(d.load(t, x, images, H, W, 8 * C), height, width))


def _softmax(d, t, grid, x, width):
    assert width % 8 == 0
    d.store(t, x, mx.softmax(d.load(t, x, grid[0], width), axis=-1))


def _attention(d, t, grid, q, k, v, out, L, S, heads, *pitches, D, WARPS, MT):
    *pitches, scale = pitches
    assert scale == int(D) ** -0.5 and grid[0] * 16 * int(MT) * int(WARPS) >= L
    B = grid[1] // heads
    _attended(d, t, (q, k, v), pitches, out, B, L, S, heads, heads * int(D))


def _attended(d, t, places, pitches, out, B, L, M, heads, D):
    q, k, v = (
        d.load(t, at, B, rows, D, pitch=pitch)
        for at, rows, pitch in zip(places, (L, M, M), pitches, strict=True)
    )
    d.store(t, out, reference.attention(q, k, v, heads))


def _hear(d, t, grid, word):
    assert d.word(word) == 1, "waits for ever"
    d.word(word)[:] = 0


def _say(d, t, grid, word):
    d.word(word)[:] = 1


# --- Libraries ---


class Product:
    def __init__(self, device: Device, *given, **named):
        told = inspect.signature(blas.Product).bind(*given, **named)
        told.apply_defaults()
        self._device, self._told = device, told.arguments

    def __call__(self, stream, x, weight, add, out, workspace) -> None:
        self._device.do(partial(self._run, x, weight, add, out))

    def _run(self, x, weight, add, out) -> None:
        d, told = self._device, self._told
        t, (M, N, K), pitch = told["dtype"], told["shape"], told["pitch"]
        sizes = (N, K) if told["transposed"] else (K, N)
        w = d.load(t, weight, *sizes, pitch=told["w_pitch"])
        w = w.T if told["transposed"] else w
        y = told["scale"] * (d.load(t, x, M, K, pitch=told["x_pitch"]) @ w)
        if told["bias"] is not None:
            y = y + d.load(t, told["bias"], N)
        if told["add"]:
            y = y + d.load(t, add, M, N, pitch=pitch)
        d.store(t, out, y, pitch=pitch)


def convolution(device, dtype, x_shape, w_shape, out_shape, stride, padding):
    def run(stream, x, weight, out, workspace):
        device.do(partial(work, x, weight, out))

    def work(x, weight, out):
        values, w = (
            device.load(dtype, x, *x_shape),
            device.load(dtype, weight, *w_shape),
        )
        before, after = padding
        around = [(0, 0), padding, padding, (0, 0)]
        y = reference.conv(mx.pad(values, around), w, None, stride, 0)
        assert y.shape == tuple(out_shape)
        device.store(dtype, out, y)

    return run


def scaled_attention(device, dtype, heads, *parts):
    def run(stream, q, k, v, out, workspace):
        (B, L, D), (_, M, _) = parts[0][0], parts[1][0]
        pitches = [pitch for _, pitch in parts[:3]]
        assert parts[3] == ((B, L, D), D)
        places = q, k, v
        work = partial(_attended, device, dtype, places, pitches, out, B, L, M)
        device.do(partial(work, heads, D))

    return run
