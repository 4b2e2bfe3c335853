"""Matrix products by cuBLASLt, which MLX loads; numbers are of CUDA 13's headers."""

import ctypes
import json
import time
from collections.abc import Callable, Sequence
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from functools import cache, partial
from pathlib import Path

import mlx.core as mx

from .driver import WORKSPACE, Stream, cache_folder, check, replace_file

_PROPOSALS = 8  # ways that a library is asked for; the fastest here is taken
_GAIN = 0.95  # of the time of the first proposal: what is not clearly faster is not
_REPEATS = 10

_CUDA_TYPES = {mx.float16: 2, mx.bfloat16: 14}  # cudaDataType_t
_FLOAT32, _COMPUTE_32F = 0, 68


@cache
def _choices() -> tuple[Path, dict[str, int]]:
    """What was found fastest on this device with this cuBLAS, by shapes; its file."""
    version = _blas()[0].cublasLtGetVersion()
    device = str(mx.device_info()["device_name"]).replace(" ", "-")
    path = cache_folder() / f"products-{device}-{version}.json"
    try:
        return path, json.loads(path.read_text())
    except (OSError, ValueError):
        return path, {}


def _choose(key: str, stream: Stream, ways: Sequence[Callable[[], None]]) -> int:
    """Which way is the fastest, measured when it is first asked for.

    Remembered in a file, as that takes seconds for a network; and so that a machine
    computes the same in each process.
    """
    path, chosen = _choices()
    if key not in chosen:
        times = [_time(stream, way) for way in ways]
        best = min(range(len(ways)), key=times.__getitem__)
        chosen[key] = best if times[best] < _GAIN * times[0] else 0
        replace_file(path, json.dumps(chosen).encode())
    return min(chosen[key], len(ways) - 1)


def _time(stream: Stream, way: Callable[[], None]) -> float:
    taken = []
    for _ in range(3):
        way()
        stream.synchronize()
        start = time.perf_counter()
        for _ in range(_REPEATS):
            way()
        stream.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)


class _Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t"""

    _fields_ = [
        ("algo", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    ]


@cache
def _blas() -> tuple[ctypes.CDLL, c_void_p]:
    library, handle = ctypes.CDLL("libcublasLt.so.13"), c_void_p()
    check(library.cublasLtCreate(byref(handle)), "cublasLtCreate")
    return library, handle


class Product:
    """out = x weightᵀ + bias + add: (M, K), (N, K), (N,), (M, N) → (M, N).

    Rows of x are `x_pitch` values apart, those of out and add `pitch`.
    """

    TRANSA, EPILOGUE, BIAS_POINTER, WITH_BIAS, MAX_WORKSPACE = 3, 7, 8, 4, 1

    def __init__(
        self,
        dtype: mx.Dtype,
        shape: tuple[int, int, int],
        x_pitch: int,
        w_pitch: int,
        pitch: int,
        bias: int | None,
        add: bool,
        transposed: bool = True,
        scale: float = 1.0,
    ):
        """
        Args:
            shape: M, N, K.
            scale: of the product.
            transposed: False: the weight is (K, N).
        """
        library, self._handle = _blas()
        M, N, K = shape
        kind = _CUDA_TYPES[dtype]
        self._alpha, self._beta = c_float(scale), c_float(float(add))
        self._desc = c_void_p()
        status = library.cublasLtMatmulDescCreate(
            byref(self._desc), _COMPUTE_32F, _FLOAT32
        )
        check(status, "cublasLtMatmulDescCreate")
        self._set(self.TRANSA, c_int32(1 if transposed else 0))
        if bias is not None:
            self._set(self.EPILOGUE, c_int32(self.WITH_BIAS))
            self._set(self.BIAS_POINTER, c_void_p(bias))
        # cuBLAS counts down columns, so it is given outᵀ = weight xᵀ.
        self._layouts = [
            self._layout(kind, *sizes)
            for sizes in (
                (K, N, w_pitch) if transposed else (N, K, w_pitch),
                (K, M, x_pitch),
                (N, M, pitch),
            )
        ]
        parts = dtype, *shape, x_pitch, w_pitch, pitch, bias is None, add, transposed
        self._key = " ".join(map(str, parts))

    def _set(self, attribute: int, value: ctypes._SimpleCData) -> None:
        status = _blas()[0].cublasLtMatmulDescSetAttribute(
            self._desc, attribute, byref(value), c_size_t(ctypes.sizeof(value))
        )
        check(status, "cublasLtMatmulDescSetAttribute")

    @staticmethod
    def _layout(kind: int, rows: int, columns: int, pitch: int) -> c_void_p:
        layout = c_void_p()
        status = _blas()[0].cublasLtMatrixLayoutCreate(
            byref(layout), kind, c_uint64(rows), c_uint64(columns), c_int64(pitch)
        )
        check(status, "cublasLtMatrixLayoutCreate")
        return layout

    def _algorithms(self) -> list[_Heuristic]:
        """cuBLAS's proposals, in its order."""
        library, handle = _blas()
        preference, found = c_void_p(), c_int()
        library.cublasLtMatmulPreferenceCreate(byref(preference))
        size = c_size_t(WORKSPACE)
        library.cublasLtMatmulPreferenceSetAttribute(
            preference, self.MAX_WORKSPACE, byref(size), c_size_t(8)
        )
        a, b, c = self._layouts
        results = (_Heuristic * _PROPOSALS)()
        status = library.cublasLtMatmulAlgoGetHeuristic(
            handle,
            self._desc,
            *(a, b, c, c),
            preference,
            _PROPOSALS,
            results,
            byref(found),
        )
        check(status or not found.value, "cublasLtMatmulAlgoGetHeuristic")
        library.cublasLtMatmulPreferenceDestroy(preference)
        return [result for result in results[: found.value] if not result.state]

    def __call__(
        self, stream: Stream, x: int, weight: int, add: int, out: int, workspace: int
    ) -> None:
        a, b, c = self._layouts

        def run(algorithm: _Heuristic) -> None:
            status = _blas()[0].cublasLtMatmul(
                self._handle,
                self._desc,
                byref(self._alpha),
                *(c_void_p(weight), a, c_void_p(x), b),
                byref(self._beta),
                *(c_void_p(add), c, c_void_p(out), c),
                byref(algorithm.algo),
                c_void_p(workspace),
                c_size_t(WORKSPACE),
                stream.handle,
            )
            check(status, "cublasLtMatmul")

        algorithms = self._algorithms()
        ways = [partial(run, algorithm) for algorithm in algorithms]
        ways[_choose(self._key, stream, ways)]()
