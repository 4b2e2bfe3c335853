"""The few calls of CUDA's driver and run-time compiler that a recorded network needs.

MLX brings both libraries and makes the device's context; these bindings use the same.
"""

import ctypes
import hashlib
import importlib.util
import logging
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from ctypes import byref, c_char_p, c_float, c_int, c_void_p
from functools import cache
from pathlib import Path

import mlx.core as mx

from ..errors import SDError

WORKSPACE = 32 << 20  # bytes that a library may use beside an operation's operands

log = logging.getLogger(__name__)

_PROCESSORS = 16  # attribute: how many there are
_RELAXED = 2  # capture mode: calls of other threads and streams do not matter
_SHARED_MEMORY = 8  # attribute: the most of it that a launch may ask for


class CudaError(SDError):
    """A call of a CUDA library failed."""


def check(status: int, what: str) -> None:
    if status:
        raise CudaError(f"CUDA: {what} failed with status {status}")


_LIBRARIES = "libcuda.so.1", "libnvrtc.so.13", "libcublasLt.so.13", "libcudnn.so.9"
_context = c_void_p()


def available() -> bool:
    """Whether MLX computes on the first NVIDIA GPU, with the libraries that we call."""
    here = mx.cuda.is_available() and mx.default_device() == mx.Device(mx.gpu, 0)
    return here and _loaded()


@cache
def _loaded() -> bool:
    try:
        return all(ctypes.CDLL(name) for name in _LIBRARIES)
    except OSError as error:
        log.info("networks run as MLX's operations: %s", error)
        return False


def when_gone(owner: object, do: Callable[..., object], *args: object) -> None:
    """As the owner's __del__, but not at exit, when names that it needs may be lost."""
    weakref.finalize(owner, do, *args).atexit = False


def patience(usual: int) -> int:
    """Calls of one size that are made before one is recorded; all, if told so."""
    return 1 << 60 if os.environ.get("MLX_SD_RECORDING") == "off" else usual


@cache
def cuda() -> ctypes.CDLL:
    """The driver, with MLX's context current in this thread."""
    library = ctypes.CDLL("libcuda.so.1")
    check(library.cuInit(0), "cuInit")
    check(library.cuDevicePrimaryCtxRetain(byref(_context), 0), "the device's context")
    enter(library)
    return library


def enter(library: ctypes.CDLL) -> None:
    """Make MLX's context current in this thread."""
    check(library.cuCtxSetCurrent(_context), "cuCtxSetCurrent")


class Stream:
    """Of work in order, which can be captured into a graph instead of being done."""

    def __init__(self) -> None:
        self.handle = c_void_p()
        check(cuda().cuStreamCreate(byref(self.handle), 1), "cuStreamCreate")

    def synchronize(self) -> None:
        check(cuda().cuStreamSynchronize(self.handle), "cuStreamSynchronize")

    def begin_capture(self) -> None:
        status = cuda().cuStreamBeginCapture_v2(self.handle, _RELAXED)
        check(status, "cuStreamBeginCapture")

    def end_capture(self) -> "Graph":
        graph = c_void_p()
        check(cuda().cuStreamEndCapture(self.handle, byref(graph)), "the capture")
        return Graph(graph, self)


class Graph:
    """Work that can be done again."""

    def __init__(self, graph: c_void_p, stream: Stream):
        self._stream, self._exec = stream, c_void_p()
        status = cuda().cuGraphInstantiateWithFlags(
            byref(self._exec), graph, ctypes.c_ulonglong(0)
        )
        check(status, "cuGraphInstantiate")
        check(cuda().cuGraphDestroy(graph), "cuGraphDestroy")
        when_gone(self, cuda().cuGraphExecDestroy, self._exec)

    def launch(self) -> None:
        enter(cuda())
        status = cuda().cuGraphLaunch(self._exec, self._stream.handle)
        check(status, "cuGraphLaunch")


class Map(ctypes.Structure):
    """CUtensorMap: what the copy engine must know of a matrix."""

    _fields_ = [("values", ctypes.c_uint64 * 16)]


class Kernel:
    def __init__(self, module: c_void_p, name: str):
        self._name, self._function = name, c_void_p()
        status = cuda().cuModuleGetFunction(
            byref(self._function), module, name.encode()
        )
        check(status, f"kernel {name}")

    def launch(
        self,
        stream: Stream,
        grid: tuple[int, int, int],
        threads: int,
        shared: int,
        *args: c_void_p | int | float | Map,
    ) -> None:
        """
        Args:
            args: by Python's type; a pointer is an int of c_void_p, see pointer().
        """
        if shared > 48 << 10:
            status = cuda().cuFuncSetAttribute(self._function, _SHARED_MEMORY, shared)
            check(status, f"shared memory of {self._name}")
        values = [_argument(arg) for arg in args]
        pointers = (c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        status = cuda().cuLaunchKernel(
            self._function,
            *grid,
            *(threads, 1, 1, shared),
            stream.handle,
            pointers,
            None,  # a 0 would leave half of the pointer unset
        )
        check(status, f"the launch of {self._name}")


def pointer(address: int | None) -> c_void_p:
    return c_void_p(address or 0)


def matrix(dtype: mx.Dtype, address: int, rows: int, columns: int, pitch: int) -> Map:
    """Of a matrix of 16-bit floats, to be fetched by 128 rows of 64 columns.

    Those lie in shared memory as the matrix units of Hopper read them, swizzled.
    """
    room = (ctypes.c_char * (ctypes.sizeof(Map) + 64))()
    made = Map.from_buffer(room, -ctypes.addressof(room) % 64)  # as the driver asks
    float16, bfloat16, swizzle_128, promotion_256 = 6, 9, 3, 3  # of cuda.h
    kind = float16 if dtype == mx.float16 else bfloat16
    status = cuda().cuTensorMapEncodeTiled(
        byref(made),
        *(kind, 2, pointer(address)),
        (ctypes.c_uint64 * 2)(columns, rows),
        (ctypes.c_uint64 * 1)(2 * pitch),
        (ctypes.c_uint32 * 2)(64, 128),
        (ctypes.c_uint32 * 2)(1, 1),
        *(0, swizzle_128, promotion_256, 0),
    )
    check(status, "cuTensorMapEncodeTiled")
    return made


@cache
def processors() -> int:
    """How many multiprocessors the device has."""
    count = c_int()
    status = cuda().cuDeviceGetAttribute(byref(count), _PROCESSORS, 0)
    check(status, "cuDeviceGetAttribute")
    return count.value


def _argument(
    value: c_void_p | int | float | Map,
) -> c_void_p | c_int | c_float | Map:
    if isinstance(value, c_void_p | Map):
        return value
    return c_float(value) if isinstance(value, float) else c_int(value)


@cache
def kernels(file: str, type: str, *defines: str) -> "Kernels":
    return Kernels(file, (f"T={type}", *defines))


def source(file: str) -> str:
    """Of a .cu file of this folder, and what they share before it."""
    folder = Path(__file__).parent
    return "".join((folder / f).read_text() for f in ("common.cuh", f"{file}.cu"))


class Kernels:
    """A .cu file of this folder, compiled for this device."""

    def __init__(self, file: str, defines: tuple[str, ...]):
        self._module, self._kernels = c_void_p(), dict[str, Kernel]()
        binary = _compiled(source(file), defines)
        status = cuda().cuModuleLoadData(byref(self._module), binary)
        check(status, f"{file}.cu")

    def __getitem__(self, name: str) -> Kernel:
        if name not in self._kernels:
            self._kernels[name] = Kernel(self._module, name)
        return self._kernels[name]


def _compiled(source: str, defines: tuple[str, ...]) -> bytes:
    """From the cache, or else compiled now, which takes seconds."""
    info = mx.device_info()
    arch = f"{info['compute_capability_major']}{info['compute_capability_minor']}"
    if arch == "90":  # with what Hopper alone has
        arch = "90a"
    options = [f"--gpu-architecture=sm_{arch}", "--std=c++17"]
    options += [f"-D{define}" for define in defines]
    key = hashlib.sha256("\n".join([source, *options]).encode()).hexdigest()[:32]
    cached = cache_folder() / f"{key}.cubin"
    if cached.exists():
        return cached.read_bytes()
    options += [f"--include-path={path}" for path in _headers()]
    binary = _compile(source, options)
    replace_file(cached, binary)
    return binary


def cache_folder() -> Path:
    """Beside MLX's own kernels if it is told where to keep them, or the user's."""
    told = os.environ.get("MLX_PTX_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(told or home, "mlx_sd-cuda")


def replace_file(path: Path, data: bytes) -> None:
    """Write a file of the cache, which other processes see whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):  # what is not kept is made again
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)


def _headers() -> list[Path]:
    """Where cuda_fp16.h may be: in the package that MLX requires, or a toolkit."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(p, "cu13") for p in (spec and spec.submodule_search_locations) or []]
    roots += [
        Path(os.environ[v]) for v in ("CUDA_HOME", "CUDA_PATH") if v in os.environ
    ]
    roots.append(Path("/usr/local/cuda"))
    found = [root / "include" for root in roots]
    return [path for path in found if (path / "cuda_fp16.h").exists()][:1]


def _compile(source: str, options: list[str]) -> bytes:
    nvrtc, program = ctypes.CDLL("libnvrtc.so.13"), c_void_p()
    check(
        nvrtc.nvrtcCreateProgram(
            byref(program), source.encode(), b"mlx_sd.cu", 0, None, None
        ),
        "nvrtcCreateProgram",
    )
    array = (c_char_p * len(options))(*(option.encode() for option in options))
    size = ctypes.c_size_t()
    if nvrtc.nvrtcCompileProgram(program, len(options), array):
        nvrtc.nvrtcGetProgramLogSize(program, byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise CudaError(f"CUDA: a kernel does not compile: {log.value.decode()}")
    check(nvrtc.nvrtcGetCUBINSize(program, byref(size)), "nvrtcGetCUBINSize")
    binary = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetCUBIN(program, binary), "nvrtcGetCUBIN")
    nvrtc.nvrtcDestroyProgram(byref(program))
    return binary.raw
