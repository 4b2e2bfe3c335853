"""The operations of a network that is being recorded; see recording.py."""

import math
from collections.abc import Sequence
from contextlib import suppress

import mlx.core as mx

from .arrays import Arena, Array, Buffer, View
from .blas import Product
from .dnn import convolution, scaled_attention
from .driver import (
    WORKSPACE,
    CudaError,
    Kernels,
    Stream,
    kernels,
    matrix,
    pointer,
    processors,
)

TYPES = {mx.float16: "__half", mx.bfloat16: "__nv_bfloat16"}
_SCORES = 4096  # rows of queries at a time in wide_attention
_GATED_ROWS = 256  # in smaller products cuBLAS's tiles are smaller, and so more
_GATED_SHARED = 4 * (48 << 10) + 8 * 16 * 144 + 1024  # stages, results, alignment there
_BLOCKS = 132 * 8  # a few for each multiprocessor of the largest GPUs


def _generation() -> int:
    """Of the GPU: 8 Ampere and Ada, 9 Hopper, 10 and 12 Blackwell."""
    return int(mx.device_info().get("compute_capability_major", 0))


def _folding(threads: int, columns: int) -> int:
    """Bytes of shared memory that kernels.cu's fold needs."""
    lanes, channels = threads // columns, 8 * columns
    return 8 * channels * (lanes + min(lanes, max(1, threads // channels)))


class Recorder:
    """Operations on arrays of one 16-bit float type, done or captured on a stream.

    Before record() is called, an operation only takes and gives memory: `arena.top`
    then tells how much the same operations need.
    """

    def __init__(self, dtype: mx.Dtype, weights: dict[int, int]):
        """
        Args:
            weights: the address of each array, by its id().
        """
        self.dtype, self.arena, self.base = dtype, Arena(), 0
        self.taken = 0  # where gated.cu counts, in two words that are 0
        self._weights = weights
        self._stream: Stream | None = None
        self._kernels: Kernels | None = None

    def record(self, base: int, stream: Stream) -> None:
        """From here on, capture: in memory at `base`, on a stream."""
        self.arena, self.base, self._stream = Arena(), base, stream
        self._kernels = kernels("kernels", TYPES[self.dtype])

    def signal(self, name: str, word: int) -> None:
        """Wait until MLX's stream "says" the word at an address, or say it: `hear`."""
        self._launch(name, (1, 1, 1), 1, 0, pointer(word))

    def array(self, *shape: int, bytes: int = 2) -> Buffer:
        """Raises: CudaError for more elements than libraries and kernels count to."""
        if math.prod(shape) >= 1 << 31:
            raise CudaError(f"an array of shape {list(shape)} is too large to record")
        return Buffer(self.arena, self.base, shape, bytes)

    def weight(self, array: mx.array) -> int:
        return self._weights[id(array)]

    def linear(
        self,
        x: Array,
        weight: mx.array,
        bias: mx.array | None = None,
        add: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """x weightᵀ + bias + add: (…, K), (N, K) → (…, N)"""
        M, K, N = math.prod(x.shape[:-1]), x.shape[-1], weight.shape[0]
        out = self.array(*x.shape[:-1], N) if out is None else out
        self.product(x, self.weight(weight), K, out, (M, N, K), bias=bias, add=add)
        return out

    def product(
        self,
        x: Array,
        weight: int,
        w_pitch: int,
        out: Array,
        shape: tuple[int, int, int],
        bias: mx.array | None = None,
        add: Array | None = None,
        transposed: bool = True,
        scale: float = 1.0,
    ) -> None:
        """out = scale·x weightᵀ + bias + add, see Product."""
        workspace = self.array(WORKSPACE, bytes=1)
        if self._stream is None:
            return
        product = Product(
            self.dtype,
            shape,
            x.pitch,
            w_pitch,
            out.pitch,
            None if bias is None else self.weight(bias),
            add is not None,
            transposed,
            scale,
        )
        other = out if add is None else add
        product(self._stream, x.at, weight, other.at, out.at, workspace.at)

    def conv(
        self,
        x: Array,
        weight: mx.array,
        stride: int = 1,
        padding: tuple[int, int] = (1, 1),
    ) -> Buffer:
        """Without bias: (B, H, W, I), (O, h, w, I) → (B, H', W', O)"""
        B, H, W, _ = x.shape
        channels, h, w, _ = weight.shape
        height = (H + sum(padding) - h) // stride + 1
        width = (W + sum(padding) - w) // stride + 1
        out = self.array(B, height, width, channels)
        workspace = self.array(WORKSPACE, bytes=1)
        if self._stream is not None:
            run = convolution(
                self.dtype, x.shape, weight.shape, out.shape, stride, padding
            )
            run(self._stream, x.at, self.weight(weight), out.at, workspace.at)
        return out

    def group_norm(
        self,
        x: Array,
        weight: mx.array,
        bias: mx.array,
        groups: int,
        eps: float,
        silu: bool,
        shift: Array | None = None,
    ) -> Buffer:
        """Of x + shift: (B, H, W, C), shift (B, C)."""
        B, H, W, C = x.shape
        out, pixels = self.array(*x.shape), H * W
        places = [pointer(self.weight(weight)), pointer(self.weight(bias))]
        places += [pointer(shift.at if shift else 0)]
        stride = shift.pitch if shift else 0
        columns = math.lcm(8, C // groups) // 8  # of a bundle of whole groups
        while columns < 4 and C // 8 % (2 * columns) == 0:
            columns *= 2
        bundles = C // 8 // columns
        eights = pixels * columns
        if _generation() >= 9 and C // 8 % columns == 0 and eights <= 1 << 17:
            cluster = next(c for c in (1, 2, 4, 8) if c == 8 or eights <= 1536 * c)
            lanes = max(1, min(-(-pixels // cluster), 256 // columns))
            threads = -(-lanes * columns // 32) * 32
            self._launch(
                f"group_norm_{cluster}",
                (cluster, bundles, B),
                threads,
                _folding(threads, columns) + 96 * columns,
                pointer(x.at),
                *places,
                stride,
                eps,
                pointer(out.at),
                *(pixels, C, groups, columns, int(silu)),
            )
            return out
        columns = C // 8
        lanes = max(1, min(pixels, 512 // columns))
        slabs = max(1, min(-(-264 // B), pixels // (4 * lanes)))
        sums = self.array(B, slabs, groups, 2, bytes=4)
        threads = -(-lanes * columns // 32) * 32
        self._launch(
            "group_sums",
            (slabs, B, 1),
            threads,
            _folding(threads, columns),
            pointer(x.at),
            places[2],
            stride,
            pointer(sums.at),
            *(pixels, C, groups),
        )
        lanes = max(1, min(pixels, 256 // columns))
        blocks = max(1, min(-(-_BLOCKS // B), pixels // (2 * lanes)))
        self._launch(
            "group_apply",
            (blocks, B, 1),
            -(-lanes * columns // 32) * 32,
            groups * 8,
            pointer(x.at),
            *places,
            stride,
            pointer(sums.at),
            slabs,
            eps,
            pointer(out.at),
            *(pixels, C, groups, int(silu)),
        )
        return out

    def layer_norm(
        self, x: Array, weight: mx.array, bias: mx.array, eps: float
    ) -> Buffer:
        out, D = self.array(*x.shape), x.shape[-1]
        rows = math.prod(x.shape[:-1])
        w, b = self.weight(weight), self.weight(bias)
        self._launch(
            "layer_norm",
            (-(-rows // 4), 1, 1),
            128,
            0,
            *map(pointer, (x.at, w, b)),
            eps,
            pointer(out.at),
            rows,
            D,
        )
        return out

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Buffer:
        """(B, L, D), (B, M, D), (B, M, D) → (B, L, D)"""
        B, L, D = q.shape
        out, width = self.array(B, L, D), D // heads
        if width <= 128 and L * k.shape[1] >= 1 << 18:
            workspace = self.array(WORKSPACE, bytes=1)
            if self._stream is None:
                return out
            parts = [(y.shape, y.pitch) for y in (q, k, v, out)]
            places = q.at, k.at, v.at, out.at, workspace.at
            with suppress(CudaError):  # of an old cuDNN: ours, then
                scaled_attention(self.dtype, heads, *parts)(self._stream, *places)
                return out
        # More queries a warp read keys and values less often, if registers suffice.
        warps, tiles = (4, 2 if width <= 80 else 1) if L >= 1024 else (2, 1)
        rows, padded = 16 * tiles * warps, -(-width // 16) * 16
        if self._stream is not None:
            defines = f"D={width}", f"WARPS={warps}", f"MT={tiles}"
            own = kernels("attention", TYPES[self.dtype], *defines)
            own["attention"].launch(
                self._stream,
                (-(-L // rows), B * heads, 1),
                32 * warps,
                (rows + 4 * 64) * (padded + 8) * 2,
                *map(pointer, (q.at, k.at, v.at, out.at)),
                *(L, k.shape[1], heads),
                *(q.pitch, k.pitch, v.pitch),
                width**-0.5,
            )
        return out

    def wide_attention(self, q: Array, k: Array, v: Array) -> Buffer:
        """One head of any width, by rows of scores: as above."""
        B, L, D = q.shape
        M, out = k.shape[1], self.array(B, L, D)
        for image in range(B):
            for start in range(0, L, _SCORES):
                rows = min(_SCORES, L - start)
                scores, first = self.array(rows, M), image * L + start
                part = View(q, (rows, D), first * q.pitch, q.pitch)
                keys = k.at + 2 * image * M * k.pitch
                self.product(part, keys, k.pitch, scores, (rows, M, D), scale=D**-0.5)
                self._launch("softmax", (rows, 1, 1), 512, 0, pointer(scores.at), M)
                values = v.at + 2 * image * M * v.pitch
                to = View(out, (rows, D), first * D)
                shape = rows, D, M
                self.product(scores, values, v.pitch, to, shape, transposed=False)
        return out

    def gated(self, x: Array, weight: mx.array, bias: mx.array) -> Buffer:
        """GEGLU of x weightᵀ + bias: (…, K), (2D, K), (2D,) → (…, D)"""
        M, K, D = math.prod(x.shape[:-1]), x.shape[-1], weight.shape[0] // 2
        if _generation() != 9 or M < _GATED_ROWS:
            return self.geglu(self.linear(x, weight, bias))
        out = self.array(*x.shape[:-1], D)
        if self._stream is not None:
            kernels("gated", TYPES[self.dtype])["gated"].launch(
                self._stream,
                (min(-(-M // 128) * -(-D // 128), processors()), 1, 1),
                384,
                _GATED_SHARED,
                matrix(self.dtype, x.at, M, K, x.pitch),
                matrix(self.dtype, self.weight(weight), 2 * D, K, K),
                *map(pointer, (self.weight(bias), out.at, self.taken)),
                *(M, D, K),
            )
        return out

    def geglu(self, x: Array) -> Buffer:
        """(…, 2D) → (…, D)"""
        width = x.shape[-1] // 2
        out = self.array(*x.shape[:-1], width)
        rows = math.prod(x.shape[:-1])
        self._each("geglu", out, (x, out), rows, width // 8)
        return out

    def add(self, a: Array, b: Array, bias: mx.array | None = None) -> Buffer:
        """a + b + bias, the last one per channel."""
        out = self.array(*a.shape)
        count = math.prod(a.shape) // 8
        if bias is None:
            self._each("add", out, (a, b, out), count)
        else:
            parts = (a, b, self.weight(bias), out)
            self._each("add_bias", out, parts, count, a.shape[-1] // 8)
        return out

    def add_channel(self, x: Array, bias: mx.array, out: Array) -> Array:
        """x + bias, for any number of channels; `out` may be x."""
        parts, C = (x, self.weight(bias), out), x.shape[-1]
        if C % 8:
            self._each("add_channel", out, parts, math.prod(x.shape), C)
        else:
            self._each("add_channels", out, parts, math.prod(x.shape) // 8, C // 8)
        return out

    def timesteps(self, t: Array, width: int) -> Buffer:
        """Their embedding: (B,) float32 → (B, width)."""
        out = self.array(t.shape[0], width)
        places = pointer(t.at), pointer(out.at)
        self._launch("timesteps", (t.shape[0], 1, 1), 256, 0, *places, width, 10_000.0)
        return out

    def silu(self, x: Array) -> Buffer:
        out = self.array(*x.shape)
        self._each("silu_each", out, (x, out), math.prod(x.shape) // 8)
        return out

    def concat(self, a: Array, b: Array) -> Buffer:
        """Channels of a, then of b."""
        *rows, A = a.shape
        out = self.array(*rows, A + b.shape[-1])
        sizes = math.prod(rows), A // 8, b.shape[-1] // 8
        self._each("concat", out, (a, b, out), *sizes)
        return out

    def repeat(self, x: Array, count: int) -> Array:
        """(B, …) → (count·B, …), one copy after the other."""
        if count == 1:
            return x
        line = View(x, (1, 1, 1, math.prod(x.shape)))  # a pixel, for count of them
        return View(self.nearest(line, count, 1), (count * x.shape[0], *x.shape[1:]))

    def nearest(self, x: Array, height: int, width: int) -> Buffer:
        """(B, H, W, C) → (B, height, width, C), by the nearest pixel."""
        B, H, W, C = x.shape
        out = self.array(B, height, width, C)
        self._each("nearest", out, (x, out), B, H, W, C // 8, height, width)
        return out

    def _each(
        self, name: str, out: Array, arrays: Sequence[Array | int], *sizes: int
    ) -> None:
        blocks = min(2 * _BLOCKS, -(-math.prod(out.shape) // (8 * 256)))
        places = (a if isinstance(a, int) else a.at for a in arrays)
        self._launch(name, (blocks, 1, 1), 256, 0, *map(pointer, places), *sizes)

    def _launch(
        self, name: str, grid: tuple[int, int, int], threads: int, shared: int, *args
    ) -> None:
        if self._stream is not None and self._kernels is not None:
            self._kernels[name].launch(self._stream, grid, threads, shared, *args)
