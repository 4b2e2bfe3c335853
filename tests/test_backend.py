"""The BLAS behind MLX's CPU products, and what backend.py says of the device."""

import ctypes
import logging
import mmap
import os
import struct
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from process import python

from mlx_sd import backend, blas
from mlx_sd.kernels import cpu

ROUTINES = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux redirects BLAS")


def redirected() -> bool:
    return backend.blas().how.startswith("put in place")


def slot_values() -> dict[int, int]:
    maps = blas._mappings()
    return {slot: blas._read(slot, maps) for slot in blas._slots_of_mlx()}


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )


# --- Products ---


@linux
def test_mlx_calls_the_library_that_blas_names():
    if not redirected():
        pytest.skip("MLX is linked to a fast BLAS, or there is none")
    maps, path = blas._mappings(), backend.blas().path
    assert "/libmlx" not in path
    assert {blas._at(value, maps).path for value in slot_values().values()} == {path}


@pytest.mark.parametrize(
    "dtype, tolerance",
    [(np.float32, 1e-5), (np.float64, 1e-13), (np.complex64, 1e-5)],
    ids=["s", "d", "c"],
)
@pytest.mark.parametrize("M, K, N", [(1, 1, 1), (3, 257, 5), (131, 67, 129)])
@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
def test_product_agrees_with_numpy(dtype, tolerance, M, K, N, transposed):
    random = np.random.default_rng(M)

    def matrix(rows, columns, turn):
        x = random.standard_normal((columns, rows) if turn else (rows, columns))
        if dtype is np.complex64:
            x = x + 1j * random.standard_normal(x.shape)
        x = x.astype(dtype)
        with mx.stream(mx.cpu):
            y = mx.array(x, dtype={"d": mx.float64}.get(x.dtype.char))
            return (x.T, y.T) if turn else (x, y)

    a, a_mx = matrix(M, K, "a" in transposed)
    b, b_mx = matrix(K, N, "b" in transposed)
    with mx.stream(mx.cpu):
        got = np.array(a_mx @ b_mx)
    expected = a @ b
    assert got.dtype == expected.dtype
    assert np.abs(got - expected).max() <= tolerance * K**0.5 * 4


def test_convolution_agrees_with_numpy():
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 9, 7, 5)).astype(np.float32)
    w = random.standard_normal((11, 3, 3, 5)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    expected = np.einsum("nhwcij,oijc->nhwo", windows, w)
    with mx.stream(mx.cpu):
        got = np.array(mx.conv2d(mx.array(x), mx.array(w)))
    assert np.abs(got - expected).max() <= 1e-5 * 45**0.5 * 4


@linux
def test_wrong_products_put_the_old_addresses_back(monkeypatch):
    monkeypatch.delenv("MLX_SD_BLAS", raising=False)
    before = slot_values()
    monkeypatch.setattr(blas, "_linked", lambda slots: None)
    monkeypatch.setattr(blas, "_multiplies", lambda routine: False)
    found = blas.install()
    if "no OpenBLAS" not in found.how:
        assert "wrong products" in found.how and found.remedy
    assert slot_values() == before


@linux
def test_slots_in_a_read_only_page_are_written_and_locked_again():
    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = blas.ctypes.addressof(blas.ctypes.c_char.from_buffer(page))
    blas._protect(address, mmap.PROT_READ)
    blas._write({address + 8: 0x1234}, blas._mappings())
    assert page[8:16] == (0x1234).to_bytes(8, "little")
    assert blas._at(address, blas._mappings()).access.startswith("r--")
    blas._protect(address, mmap.PROT_READ | mmap.PROT_WRITE)


# --- ELF ---


def elf(machine: int, relocation: int, lazy: bool, base: int = 0) -> bytes:
    """A shared library of one segment that imports memcpy and two BLAS routines."""
    names = b"\0memcpy\0cblas_sgemm\0xcblas_dgemm\0cblas_cgemm\0cblas_sgemm_batch\0"
    imports = (b"memcpy\0", b"cblas_sgemm\0", b"cblas_cgemm\0", b"cblas_sgemm_batch\0")
    symbols = bytes(24)
    for name in imports:
        symbols += struct.pack("<IIQQ", names.index(b"\0" + name) + 1, 0x12, 0, 0)
    relocations = struct.pack("<QQq", base + 0x8F00, 8, 64)  # relative, no symbol
    for i in range(1, 5):
        info = i << 32 | relocation
        relocations += struct.pack("<QQq", base + 0x9000 + 8 * i, info, 0)
    symbols_at = 0x40 + 2 * 56
    strings_at = symbols_at + len(symbols)
    relocations_at = strings_at + len(names)
    dynamic_at = relocations_at + len(relocations)
    table, size = (23, 2) if lazy else (7, 8)
    tags = {5: base + strings_at, 6: base + symbols_at}
    tags |= {table: base + relocations_at, size: len(relocations), 0: 0}
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags.items())
    end = dynamic_at + len(dynamic)
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 3, machine, 1)
    head += struct.pack("<QQQIHHHHHH", 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, end, 0xA000, 4096)
    place = (dynamic_at, base + dynamic_at, base + dynamic_at)
    head += struct.pack("<IIQQQQQQ", 2, 6, *place, len(dynamic), len(dynamic), 8)
    return head + symbols + names + relocations + dynamic


@pytest.mark.parametrize("base", [0, 0x400000])
@pytest.mark.parametrize(
    "machine, relocation, lazy",
    [(62, 7, True), (62, 6, False), (183, 1026, True), (183, 1025, False)],
    ids=["x86-64", "x86-64 eager", "aarch64", "aarch64 eager"],
)
def test_slots_are_found(machine, relocation, lazy, base):
    expected = {0x9010: "cblas_sgemm", 0x9018: "cblas_cgemm"}
    assert blas.find_slots(elf(machine, relocation, lazy, base)) == expected


def test_relocations_of_another_machine_are_not_slots():
    assert blas.find_slots(elf(183, 7, True)) == {}


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"#!/bin/sh\n" * 9,
        b"\x7fELF\x02\x01".ljust(64, b"\0"),
        elf(3, 7, True),
        elf(62, 7, True)[:90],
        elf(62, 7, True)[:300],
        elf(62, 7, True).replace(b"ELF\x02", b"ELF\x01"),
    ],
    ids=["empty", "text", "header", "i386", "cut", "cut later", "32-bit"],
)
def test_a_file_of_another_kind_is_refused(image):
    with pytest.raises((ValueError, struct.error)):
        blas.find_slots(image)


def test_damaged_files_are_refused_or_read_without_slots_elsewhere():
    whole = elf(62, 7, True)
    random = np.random.default_rng(0)
    for _ in range(2000):
        image = bytearray(whole)
        for at in random.integers(0, len(image), 3):
            image[at] = random.integers(256)
        try:
            assert len(blas.find_slots(bytes(image))) <= 4
        except (ValueError, struct.error):
            pass


@linux
def test_an_unknown_mlx_falls_back(monkeypatch, tmp_path):
    monkeypatch.delenv("MLX_SD_BLAS", raising=False)
    strange = tmp_path / "libmlx.so"
    strange.write_bytes(b"\x7fELF\x02\x01" + bytes(range(256)))
    mapping = blas._Mapping(0x1000, 0x2000, "r--p", 0, str(strange))
    monkeypatch.setattr(blas, "_mappings", lambda: [mapping])
    found = blas.install()
    assert found.name == "MLX's own BLAS" and "LD_PRELOAD" in found.remedy
    monkeypatch.setattr(blas, "_mappings", lambda: [])
    assert "no call of cblas_sgemm" in blas.install().how


# --- Falling back, opting out ---

REPORT = "from mlx_sd import backend as b; b.setup(); print(b.blas().name)"
HIDE = """
import ctypes, sys
sys.modules["scipy_openblas32"] = None
class CDLL(ctypes.CDLL):
    def __init__(self, name, *a, **k):
        if any(x in str(name) for x in ("openblas", "mkl", "blis")):
            raise OSError("hidden")
        super().__init__(name, *a, **k)
ctypes.CDLL = CDLL
"""


@linux
@pytest.mark.skipif(backend._on_gpu(), reason="the warning is for CPU users")
def test_without_a_fast_blas_one_line_names_the_remedy():
    if not redirected():
        pytest.skip("MLX is linked to a fast BLAS")
    result = run(HIDE + REPORT, MLX_SD_BLAS="")
    assert result.stdout == "MLX's own BLAS\n"
    (line,) = result.stderr.splitlines()
    assert "pip install 'mlx-sd[cpu]'" in line and "libopenblas" in line


@linux
def test_a_missing_library_of_choice_is_named(caplog, monkeypatch):
    monkeypatch.setenv("MLX_SD_BLAS", "/no/such.so")
    before = mx.set_cache_limit(0)
    try:
        with caplog.at_level(logging.WARNING, "mlx_sd"):
            found = backend._setup.__wrapped__()
    finally:
        mx.set_cache_limit(before)
    assert "/no/such.so" in found.how and found.remedy == "correct MLX_SD_BLAS"
    assert len(caplog.messages) == (0 if backend._on_gpu() else 1)


@linux
def test_a_library_with_64_bit_sizes_is_refused(monkeypatch):
    if not redirected():
        pytest.skip("no library to choose")
    config = "OpenBLAS 0.3.21 USE64BITINT"
    monkeypatch.setattr(blas, "_openblas_config", lambda library: config)
    monkeypatch.setenv("MLX_SD_BLAS", backend.blas().path)
    before = slot_values()
    if "OpenBLAS" in backend.blas().name:
        assert "64-bit" in blas.install().how
    assert slot_values() == before


@linux
@pytest.mark.parametrize("off", ["off", "OFF", "0"])
def test_opting_out_is_silent(off):
    result = run(REPORT, MLX_SD_BLAS=off)
    assert (result.stdout, result.stderr) == ("MLX's own BLAS\n", "")


@linux
def test_a_library_of_choice_is_taken():
    if not redirected():
        pytest.skip("no library to choose")
    path = backend.blas().path
    result = run(REPORT, MLX_SD_BLAS=path)
    assert Path(path).name in result.stdout and result.stderr == ""


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(blas.sys, "platform", "darwin")
    monkeypatch.setattr(blas, "_slots_of_mlx", lambda: pytest.fail("touched"))
    assert not blas.install().remedy


# --- The device ---


def test_setup_acts_once():
    backend.setup()
    first, slots = backend.blas(), slot_values() if sys.platform == "linux" else {}
    backend.setup()
    assert backend.blas() is first
    assert slots == (slot_values() if slots else {})


@pytest.mark.skipif(backend._on_gpu(), reason="the limit is for the CPU")
def test_the_cache_holds_a_layers_arrays():
    limit = mx.set_cache_limit(0)
    mx.set_cache_limit(limit)
    most = min(2 << 30, backend.total_memory() // 8)
    assert limit >= (cpu._CACHE if cpu.library() else most)


def test_description_names_device_versions_and_blas():
    lines = backend.describe()
    assert lines["Device"] == backend.device_name()
    assert lines["BLAS"].startswith(backend.blas().name)
    assert f"mlx {mx.__version__}" in lines["MLX"]
    assert lines["NumPy"] == np.__version__
    assert lines["Memory"].split()[1].startswith("GiB")
    assert all(text and "\n" not in text for text in lines.values())


@pytest.mark.skipif(backend._on_gpu(), reason="nothing is wrong there")
@pytest.mark.parametrize(
    "platform, packages, remedy",
    [
        ("linux", ["mlx 1", "mlx-cpu 1"], ""),
        ("linux", ["mlx 1", "mlx-cpu 1", "mlx-cuda-13 1"], "uninstall mlx-cpu"),
        ("darwin", ["mlx 1", "mlx-metal 1"], "native arm64 Python"),
    ],
    ids=["CPU", "two wheels", "Mac"],
)
def test_a_gpu_that_is_not_used_is_explained(monkeypatch, platform, packages, remedy):
    monkeypatch.setattr(backend.sys, "platform", platform)
    monkeypatch.setattr(backend, "_mlx_packages", lambda: packages)
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    trouble = backend._gpu_trouble()
    assert remedy in trouble and bool(trouble) == bool(remedy)


def test_speed_is_positive():
    assert backend.measured_gflops(64) > 0


def test_computes_in_float32_on_the_cpu_only():
    expected = mx.float16 if backend._on_gpu() else mx.float32
    assert backend.compute_dtype() == expected


@pytest.mark.skipif(not redirected(), reason="MLX keeps its own BLAS here")
def test_small_networks_use_one_thread_and_large_ones_all():
    library = ctypes.CDLL(backend.blas().path)
    names = ("openblas_get_num_threads", "scipy_openblas_get_num_threads")
    threads = next(getattr(library, name) for name in names if hasattr(library, name))
    backend.prepare_for(860_000_000)
    every = threads()
    backend.prepare_for(9_000_000)
    assert threads() == 1
    backend.prepare_for(860_000_000)
    assert threads() == every


KEPT = """
import mlx.core as mx
import numpy as np
from mlx_sd import backend
from process import resident

def make(count):
    array = {array}
    mx.eval(array)
    return array

mx.set_cache_limit(0)
make(7 << 20)  # 28 MB: when it is freed, glibc keeps smaller ones
arrays = [make(1 << 18) for _ in range(100)]  # 1 MB each
last, before = arrays[-1], resident()
del arrays
backend.trim()
print(before - resident())
"""
# What is in the process's own memory, as MLX's arrays are not that lie on a GPU.
OWN = ["np.full(count, 1, np.float32)"]
if not backend._on_gpu():
    OWN.append("mx.random.normal((count,))")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory, by Linux's count")
@pytest.mark.parametrize("array", OWN)
def test_trimmed_memory_goes_back_although_some_above_it_is_in_use(array):
    assert int(python("-c", KEPT.format(array=array))) > 80 << 20
