"""A fast BLAS for MLX on Linux, without a compiler or an environment variable.

MLX's Linux wheels link the reference BLAS, some 50 times slower than OpenBLAS. Every
matrix product and convolution on the CPU is a call of `cblas_sgemm` (`dgemm`, `cgemm`)
from libmlx.so, and such a call goes through a pointer, the *slot*, that the dynamic
loader fills: ELF relocations R_*_JUMP_SLOT and R_*_GLOB_DAT. `install` finds the slots
in the file, writes the addresses of a faster library's functions into them, and checks
the products; on any doubt it leaves, or puts back, what was there.

The first of these is used: what MLX is linked to, if that is fast; the system's
OpenBLAS; OpenBLAS from pip (`scipy-openblas32`); the system's MKL; its BLIS.
MLX_SD_BLAS=off keeps MLX's own, MLX_SD_BLAS=/path/to/library.so takes that one.
"""

import ctypes
import functools
import importlib.util
import mmap
import os
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

_ROUTINES = {
    "cblas_sgemm": mx.float32,
    "cblas_dgemm": mx.float64,
    "cblas_cgemm": mx.complex64,
}

# Names to try with the loader's own search: ctypes.util.find_library would start
# ldconfig and gcc. Fedora's libopenblas.so.0 is serial, its libopenblasp.so.0 is not.
_OPENBLAS = ("libopenblasp.so.0", "libopenblas.so.0")
# Last, as they were no faster than OpenBLAS but took 0.1 to 0.5 s to start.
_OTHERS = ("libmkl_rt.so.3", "libmkl_rt.so.2", "libblis-mt.so", "libblis.so.4")

_GET_FAST = "pip install 'mlx-sd[cpu]', or install libopenblas"
_PRELOAD = "start Python with LD_PRELOAD=libopenblas.so.0"


@dataclass(frozen=True)
class Blas:
    """The library behind MLX's matrix products on the CPU."""

    name: str  # "OpenBLAS 0.3.34 (scipy-openblas32)"
    path: str  # its file, "" where unknown
    how: str  # how it got there, or why it is still the slow one
    remedy: str = ""  # what the user can do; "" if nothing is wrong


class _Refused(Exception):
    """Why MLX keeps its own BLAS, and the remedy."""


def install() -> Blas:
    """Lead MLX's matrix products to the fastest BLAS there is; never raises."""
    if sys.platform != "linux":
        return Blas("Accelerate", "", "linked by MLX")
    choice = os.environ.get("MLX_SD_BLAS", "")
    own = Blas("MLX's own BLAS", "", f"MLX_SD_BLAS={choice}")
    if choice.lower() in ("off", "0"):
        return own
    try:
        slots = _slots_of_mlx()
        linked = None if choice else _linked(slots)
        return linked or _redirect(slots, *_find(choice))
    except _Refused as error:
        why, remedy = error.args
    except Exception as error:  # an MLX or a library of a kind not met before
        why, remedy = f"{type(error).__name__}: {error}", _PRELOAD
    return Blas(own.name, "", why, remedy)


# --- The slots ---


@dataclass(frozen=True)
class _Mapping:
    """One line of /proc/self/maps."""

    start: int
    end: int
    access: str  # "rw-p"
    offset: int
    path: str


def _mappings() -> list[_Mapping]:
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, offset, _, _, *path = line.split(maxsplit=5)
        start, end = (int(x, 16) for x in span.split("-"))
        found.append(_Mapping(start, end, access, int(offset, 16), "".join(path)))
    return found


def _at(address: int, maps: list[_Mapping]) -> _Mapping:
    for m in maps:
        if m.start <= address < m.end:
            return m
    raise _Refused(f"nothing is mapped at {address:#x}", _PRELOAD)


# e_machine: (GLOB_DAT, JUMP_SLOT), the relocations that are a function's address
_ADDRESS_RELOCATIONS = {62: (6, 7), 183: (1025, 1026)}  # x86-64, aarch64
_LOAD, _DYNAMIC = 1, 2  # p_type
_PLTRELSZ, _STRTAB, _SYMTAB, _RELA, _RELASZ, _JMPREL = 2, 5, 6, 7, 8, 23  # d_tag


class _Elf:
    """The parts of an ELF file that the dynamic loader reads.

    Raises ValueError or struct.error, here and in its methods, for a file that is
    damaged or is not little-endian 64-bit ELF for x86-64 or aarch64.
    """

    def __init__(self, image: bytes | mmap.mmap):
        self.image = image
        (self.machine,) = self.unpack("<H", 18)
        if image[:6] != b"\x7fELF\x02\x01" or self.machine not in _ADDRESS_RELOCATIONS:
            raise ValueError("not an ELF file for x86-64 or aarch64")
        (table,), (size, count) = self.unpack("<Q", 32), self.unpack("<HH", 54)
        # (p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz)
        headers = [self.unpack("<IIQQQQ", table + i * size) for i in range(count)]
        self.loads = [h for h in headers if h[0] == _LOAD]
        dynamics = [h for h in headers if h[0] == _DYNAMIC]
        if not self.loads or not dynamics:
            raise ValueError("not a shared library")
        self.tags = dict(self.entries("<QQ", dynamics[0][3], dynamics[0][5]))
        # the address that the file's first byte gets, before the library is moved
        self.zero = self.loads[0][3] - self.loads[0][2]

    def unpack(self, form: str, at: int) -> tuple[Any, ...]:
        return struct.unpack(form, self.image[at : at + struct.calcsize(form)])

    def place(self, address: int) -> int:
        """Address → offset in the file."""
        for _, _, offset, start, _, length in self.loads:
            if start <= address < start + length:
                return offset + address - start
        raise ValueError(f"no segment of the file holds {address:#x}")

    def entries(self, form: str, address: int, length: int) -> Iterator[Any]:
        at = self.place(address)
        part = self.image[at : at + length]
        if len(part) != length:
            raise ValueError("the file is cut off")
        return struct.iter_unpack(form, part)


def find_slots(image: bytes | mmap.mmap) -> dict[int, str]:
    """Where a shared library keeps the addresses of the BLAS routines it calls.

    Returns: offset of each slot from the mapping of the file's first byte → routine.
    Raises: ValueError or struct.error, as _Elf.
    """
    elf = _Elf(image)
    symbols, strings = (elf.place(elf.tags.get(t, 0)) for t in (_SYMTAB, _STRTAB))
    found = {}
    for table, size in ((_JMPREL, _PLTRELSZ), (_RELA, _RELASZ)):
        if table not in elf.tags:
            continue
        length = elf.tags.get(size, 0)
        for slot, info, _ in elf.entries("<QQQ", elf.tags[table], length):
            if info & 0xFFFFFFFF in _ADDRESS_RELOCATIONS[elf.machine]:
                (name,) = elf.unpack("<I", symbols + 24 * (info >> 32))
                for routine in _ROUTINES:
                    text, at = routine.encode() + b"\0", strings + name
                    if image[at : at + len(text)] == text:
                        found[slot - elf.zero] = routine
    return found


def _slots_of_mlx() -> dict[int, str]:
    """Address of each slot in this process → routine."""
    core = str(Path(mx.__file__).resolve())
    files = [m for m in _mappings() if m.offset == 0 and m.path.startswith("/")]
    # Wheels keep MLX in libmlx.so; a build from source may have it all in mlx.core.
    for m in files:
        if m.path == core or Path(m.path).name == "libmlx.so":
            with (
                open(m.path, "rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image,
            ):
                slots = find_slots(image)
            if "cblas_sgemm" in slots.values():
                return {m.start + offset: name for offset, name in slots.items()}
    raise _Refused("this MLX has no call of cblas_sgemm to redirect", _PRELOAD)


def _read(slot: int, maps: list[_Mapping]) -> int:
    """The code address that a slot holds."""
    if "r" in _at(slot, maps).access:
        target = ctypes.c_uint64.from_address(slot).value
        if "x" in _at(target, maps).access:
            return target
    raise _Refused(f"no function's address at {slot:#x}", _PRELOAD)


def _write(slots: dict[int, int], maps: list[_Mapping]) -> None:
    """Store code addresses, also where the loader made the page read-only (RELRO)."""
    for slot, target in slots.items():
        locked = "w" not in _at(slot, maps).access
        if locked:
            _protect(slot, mmap.PROT_READ | mmap.PROT_WRITE)
        ctypes.c_uint64.from_address(slot).value = target
        if locked:
            _protect(slot, mmap.PROT_READ)


def _protect(slot: int, access: int) -> None:
    change = ctypes.CDLL(None).mprotect
    change.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if change(slot & -mmap.PAGESIZE, mmap.PAGESIZE, access):
        raise _Refused("MLX's table of functions is read-only", _PRELOAD)


# --- The library ---


def _openblas_config(library: ctypes.CDLL) -> str:
    """Such as "OpenBLAS 0.3.34 DYNAMIC_ARCH Haswell"; "" for another BLAS."""
    for symbol in ("openblas_get_config", "scipy_openblas_get_config"):
        if hasattr(library, symbol):
            get = library[symbol]
            get.restype = ctypes.c_char_p
            return f"OpenBLAS {get().decode()}".replace("OpenBLAS OpenBLAS", "OpenBLAS")
    return ""


def _identify(library: ctypes.CDLL) -> str | None:
    """The name of a BLAS that is known to be fast, such as "OpenBLAS 0.3.34"."""
    if config := _openblas_config(library):
        version = re.match(r"OpenBLAS( \d+\.\d+\.\d+)?", config)
        return version.group() if version else None
    if hasattr(library, "MKL_Get_Version_String"):
        return "MKL"
    if hasattr(library, "bli_info_get_version_str"):
        get = library.bli_info_get_version_str
        get.restype = ctypes.c_char_p
        return f"BLIS {get().decode()}"
    return None


def _is_wide(library: ctypes.CDLL) -> bool:
    """Whether it takes 64-bit sizes (ILP64), of which MLX sets only the lower half."""
    if hasattr(library, "MKL_Get_Version_String"):
        return "ILP64" in os.environ.get("MKL_INTERFACE_LAYER", "")
    if hasattr(library, "bli_info_get_blas_int_type_size"):
        return library.bli_info_get_blas_int_type_size() != 32
    return "USE64BITINT" in _openblas_config(library)


def _is_parallel(library: ctypes.CDLL) -> bool:
    """False for an OpenBLAS that was built to use one core."""
    for symbol in ("openblas_get_parallel", "scipy_openblas_get_parallel"):
        if hasattr(library, symbol):
            return library[symbol]() != 0
    return True


def _address(library: ctypes.CDLL, routine: str) -> int | None:
    for symbol in (routine, f"scipy_{routine}"):
        if hasattr(library, symbol):
            return ctypes.cast(library[symbol], ctypes.c_void_p).value
    return None


def _linked(slots: dict[int, str]) -> Blas | None:
    """The BLAS that MLX calls already, by its build or by LD_PRELOAD, if it is fast."""
    maps = _mappings()
    slot = next(slot for slot, name in slots.items() if name == "cblas_sgemm")
    target: int | None = _read(slot, maps)
    caller = _at(slot, maps).path
    if target and _at(target, maps).path == caller:  # unresolved until it is called
        target = _address(ctypes.CDLL(None), "cblas_sgemm")
        target = target or _address(ctypes.CDLL(caller), "cblas_sgemm")
    if not target:
        return None
    path = _at(target, maps).path
    name = _identify(ctypes.CDLL(path))
    return Blas(name, path, "linked by MLX or preloaded") if name else None


def _from_pip() -> tuple[str, ...]:
    """The file of the `scipy-openblas32` package; importing it would load it twice."""
    spec = importlib.util.find_spec("scipy_openblas32")
    places = spec.submodule_search_locations if spec else None
    return tuple(f"{p}/lib/libscipy_openblas.so" for p in places or ())


def _find(choice: str) -> tuple[ctypes.CDLL, str]:
    """The library to use and its name; `choice` is a file or "" for the best one."""
    if choice:
        return _chosen(choice)
    serial = None
    for file in (*_OPENBLAS, *_from_pip(), *_OTHERS):
        try:
            library = _load(file)
        except OSError:
            continue
        name = _identify(library)
        if name and _address(library, "cblas_sgemm") and not _is_wide(library):
            label = "scipy-openblas32" if "scipy" in file else file
            if _is_parallel(library):
                return library, f"{name} ({label})"
            serial = serial or (library, f"{name} ({label}, one core)")
    if serial:
        return serial
    raise _Refused("no OpenBLAS, MKL or BLIS was found", _GET_FAST)


def _chosen(file: str) -> tuple[ctypes.CDLL, str]:
    remedy = "correct MLX_SD_BLAS"
    try:
        library = _load(file)
    except OSError as error:
        raise _Refused(f"MLX_SD_BLAS: {error}", remedy) from error
    if not _address(library, "cblas_sgemm"):
        raise _Refused(f"{file} has no cblas_sgemm", remedy)
    if _is_wide(library):
        raise _Refused(f"{file} takes 64-bit integers, MLX gives 32", remedy)
    return library, f"{_identify(library) or 'BLAS'} ({Path(file).name})"


def _load(file: str) -> ctypes.CDLL:
    """Raises: OSError."""
    if "libmkl" in file:  # which ends the process if its OpenMP library is missing
        beside = Path(file).with_name("libiomp5.so")
        ctypes.CDLL(str(beside) if beside.exists() else beside.name)
    if "libblis" in file:  # which reads this when it is loaded, else uses one core
        os.environ.setdefault("BLIS_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    return ctypes.CDLL(file)


def _redirect(slots: dict[int, str], library: ctypes.CDLL, name: str) -> Blas:
    """Point the slots at `library`; put them back if the products come out wrong."""
    maps = _mappings()
    before = {slot: _read(slot, maps) for slot in slots}
    targets = {slot: _address(library, routine) for slot, routine in slots.items()}
    after = {slot: target for slot, target in targets.items() if target}
    try:
        _write(after, maps)
        if not all(_multiplies(slots[slot]) for slot in after):
            raise _Refused(f"wrong products with {name}", "set MLX_SD_BLAS to another")
    except BaseException:
        _write(before, maps)
        raise
    path = _at(_address(library, "cblas_sgemm") or 0, maps).path
    return Blas(name, path, "put in place of MLX's own")


def _multiplies(routine: str) -> bool:
    """Whether products of small whole numbers, which are exact, come out right."""
    dtype = _ROUTINES[routine]

    def numbers(*shape: int) -> mx.array:
        count = shape[0] * shape[1]
        return (mx.arange(count) % 7 - 3).astype(dtype).reshape(shape) * unit

    with mx.stream(mx.cpu):  # a GPU has no float64
        unit = mx.array(1 + 2j if dtype == mx.complex64 else 1).astype(dtype)
        a, b, c = numbers(33, 35), numbers(37, 35), numbers(33, 5)
        plain = mx.sum(a[:, None] * b[None], axis=2)  # these two without BLAS
        crossed = mx.sum(a[:, :, None] * c[:, None], axis=0)
        right = mx.array_equal(a @ b.T, plain) & mx.array_equal(a.T @ c, crossed)
        return bool(right.item())


# --- Threads ---


def set_threads(library: Blas, count: int | None) -> None:
    """Let OpenBLAS use `count` threads, or all that it started with if None.

    Does nothing with other libraries.
    """
    if not library.name.startswith("OpenBLAS") or not library.path:
        return
    handle = ctypes.CDLL(library.path)
    for prefix in ("", "scipy_"):
        if change := getattr(handle, f"{prefix}openblas_set_num_threads", None):
            all_ = _all_threads(library.path, f"{prefix}openblas_get_num_threads")
            change(all_ if count is None else min(count, all_))


@functools.cache
def _all_threads(path: str, symbol: str) -> int:
    """What the library chose, or OPENBLAS_NUM_THREADS told it; read before a change."""
    return getattr(ctypes.CDLL(path), symbol)()
