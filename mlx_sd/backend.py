"""The device MLX runs on: its BLAS, memory limits, number type and description."""

import ctypes
import functools
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import mlx.core as mx
except ImportError as error:  # on Linux: no libmlx.so, or one for CUDA and no driver
    raise ImportError(
        f"MLX cannot start ({error}); on Linux: pip install 'mlx-sd[cpu]', or"
        " 'mlx-sd[cuda]' on a machine with an NVIDIA driver of version 580 or newer"
    ) from error

from .blas import Blas, install, set_threads

DTYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}
_GIB = 1 << 30

# What MLX reads when it first uses an NVIDIA GPU. By default it starts operations in
# graphs of its own, a hundred at a time; those that hold a product, convolution or
# attention of more than one kernel cannot be reused and are made anew each time, which
# triples the time of a UNet (H100: 70 ms, against 22 ms without, 17 ms of it compiled).
# Without them it holds the operands of 30 operations, unless told of fewer: a UNet's
# step then takes 0.7 GB beside the weights instead of 0.35, no faster.
# And it raises "cache thrashing" where one process paints in many sizes.
_CUDA = {
    "MLX_USE_CUDA_GRAPHS": "0",
    "MLX_MAX_OPS_PER_BUFFER": "8",
    "MLX_CUDA_CONV_CACHE_SIZE": "1024",
    "MLX_CUDA_SDPA_CACHE_SIZE": "1024",
}
if sys.platform != "darwin":  # where the second would be Metal's
    for _name, _value in _CUDA.items():
        os.environ.setdefault(_name, _value)


def setup() -> None:
    """Make MLX fast on the CPU; only the first call does anything."""
    _setup()


@functools.cache
def _setup() -> Blas:
    found = install()
    if mx.default_device() == mx.Device(mx.cpu):
        # By default MLX keeps 32 MB of freed memory and returns larger arrays to the
        # system, whose page faults then cost more than the arithmetic: 42 ms instead
        # of 5 ms for `a + 1` on 64 MB. 2 GiB hold the largest layer's arrays.
        limit = min(2 * _GIB, total_memory() // 8)
        mx.set_cache_limit(max(limit, mx.set_cache_limit(limit)))
        if found.remedy:
            logging.getLogger("mlx_sd").warning(
                "mlx_sd: slow matrix products on this CPU: %s; %s",
                found.how,
                found.remedy,
            )
    elif mx.metal.is_available():
        # MLX would keep up to 1.5 times the memory that the GPU should use, which on
        # 8 or 16 GB leaves none to the system and other programs.
        mx.set_cache_limit(min(2 * _GIB, total_memory() // 16))
    else:
        # MLX would keep all that it ever took of an NVIDIA GPU, 8 GB after a picture
        # of 512x512; and reuse it for what is half as large.
        mx.set_cache_limit(_GIB // 2)
    return found


@contextmanager
def frugal() -> Iterator[None]:
    """Give freed memory back to the system, but for 64 MiB, as long as this lasts."""
    before = mx.set_cache_limit(_GIB // 16)
    mx.clear_cache()
    try:
        yield
    finally:
        mx.set_cache_limit(before)


def trim() -> None:
    """Give all freed memory back to the system.

    MLX keeps some of it for reuse; and glibc keeps what lies below memory in use, which
    after a quantised UNet was two thirds of its size.
    """
    mx.clear_cache()
    if sys.platform == "linux" and hasattr(_libc(), "malloc_trim"):  # musl has none
        _libc().malloc_trim(0)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def blas() -> Blas:
    """The library behind matrix products on the CPU."""
    return _setup()


def prepare_for(parameters: int) -> None:
    """Suit the CPU's BLAS to a network of that many parameters.

    The products of a small one gain nothing from threads (20 steps of the bundled model
    take 4.0 s with two, 4.1 s with one), while threads that wait for each other on a
    busy machine cost it ten times that (40 s against 6.7 s beside one other process).
    """
    set_threads(blas(), 1 if parameters < 50e6 else None)


def run_ahead() -> int:
    """How many steps are begun before one is waited for."""
    return 1 if _on_gpu() else 0


def compute_type() -> str:
    """float16 on a GPU; float32 on the CPU, where MLX's float16 is scalar code."""
    return "f16" if _on_gpu() else "f32"


def compute_dtype() -> mx.Dtype:
    """The same as MLX's type."""
    return DTYPES[compute_type()]


def _on_gpu() -> bool:
    return mx.default_device().type == mx.DeviceType.gpu


def device_name() -> str:
    """Such as "AMD EPYC (CPU)", "Apple M2 (Metal)" or "NVIDIA H200 (CUDA)"."""
    kind = "CPU"
    if _on_gpu():
        kind = "Metal" if mx.metal.is_available() else "CUDA"
    name = mx.device_info().get("device_name")
    return f"{name} ({kind})" if name else kind


def total_memory() -> int:
    """Bytes of memory this process may use: the machine's or its container's."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        return min(total, int(text))
    return total


def measured_gflops(n: int = 1024) -> float:
    """GFLOP/s of an n by n float32 product on the default device: the best of five.

    Stops after one second, which a slow BLAS needs for one product of 1024.
    """
    a = mx.random.normal((n, n), key=mx.random.key(0))
    mx.eval(a, a @ a)
    start, best = time.perf_counter(), float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        mx.eval(a @ a)
        end = time.perf_counter()
        best = min(best, end - begin)
        if end - start > 1:
            break
    return 2 * n**3 / best / 1e9


def describe() -> dict[str, str]:
    """What `mlx-sd info` prints: label → text, in order."""
    library = blas()
    lines = {
        "Python": f"{platform.python_version()}, {platform.platform()}",
        "MLX": ", ".join(_mlx_packages()),
        "NumPy": _version("numpy"),
        "Device": device_name(),
    }
    if trouble := _gpu_trouble():
        lines["GPU"] = trouble
    lines["Memory"] = _memory()
    lines["BLAS"] = f"{library.name}, {library.how}"
    if library.remedy:
        lines["BLAS"] += f"; {library.remedy}"
    n = 4096 if _on_gpu() else 1024  # a GPU is not busy with 1024
    lines["Matrix product"] = f"{measured_gflops(n):.0f} GFLOP/s (float32, n = {n})"
    return lines


def _mlx_packages() -> list[str]:
    """Such as ["mlx 0.32.4", "mlx-cpu 0.32.4"]."""
    names = ("mlx", "mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13")
    return [f"{name} {version}" for name in names if (version := _version(name))]


def _version(package: str) -> str:
    """An installed package's version, else an empty text."""
    import importlib.metadata  # 20 ms, needed by `mlx-sd info` alone

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gpu_trouble() -> str:
    """Why a GPU that should be there is not used, and the remedy; else ""."""
    if sys.platform == "darwin" and not mx.metal.is_available():
        return (
            "Metal is not available, so MLX uses the CPU; on Apple silicon take a"
            " native arm64 Python (not Rosetta) and macOS 14 or newer"
        )
    # Without a working driver a CUDA wheel does not get this far: see the import.
    wheels = [name.split()[0] for name in _mlx_packages() if "cuda" in name]
    if wheels and not _on_gpu():
        return (
            f"{wheels[0]} is installed, yet MLX uses the CPU; mlx-cpu takes its place:"
            f" pip uninstall mlx-cpu, then pip install --force-reinstall {wheels[0]}"
        )
    return ""


def _memory() -> str:
    text = f"{total_memory() / _GIB:.1f} GiB"
    info = mx.device_info()
    best = info.get("max_recommended_working_set_size") if _on_gpu() else None
    total = info.get("total_memory") if _on_gpu() else None
    if isinstance(best, int):
        text += f", of which the GPU should use {best / _GIB:.1f} GiB"
    elif isinstance(total, int):
        text += f"; GPU {total / _GIB:.1f} GiB"
    return text
