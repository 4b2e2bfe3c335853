"""CUDA sources compile, for several generations of GPUs; none is needed for that."""

import ctypes
import importlib.util
import re
import sys
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_sd.cuda import driver, transfer
from mlx_sd.cuda.recorder import TYPES
from mlx_sd.kernels import cuda
from mlx_sd.sampling import noise_cuda

GENERATIONS = ["80", "90a", "120"]  # A100, H100, RTX 50
NAMES = {mx.uint8: "unsigned char", mx.uint32: "unsigned", mx.float32: "float"}
NAMES |= {mx.uint64: "unsigned long long", **TYPES}
# As far as our sources go, what MLX puts before a kernel's body.
BEFORE = """
#include <cuda_bf16.h>
#include <cuda_fp16.h>
using uint32_t = unsigned; using uint64_t = unsigned long long;
struct Shape { int at[8]; __device__ int operator[](int i) const { return at[i]; } };
"""


pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="NVIDIA's compiler is not made for this system"
)


@pytest.fixture(scope="module", autouse=True)
def compiler():
    found = importlib.util.find_spec("nvidia")
    roots = found.submodule_search_locations if found else []
    for name in ("libnvrtc-builtins.so.*", "libnvrtc.so.*"):
        libraries = [p for root in roots for p in Path(root).glob(f"cu13/lib/{name}")]
        assert libraries, "pip install -e '.[dev]' brings the compiler"
        ctypes.CDLL(str(libraries[0]))  # by which it is found from now on


def compiled(source: str, generation: str, *defines: str) -> bytes:
    options = [f"--gpu-architecture=sm_{generation}", "--std=c++17"]
    options += [f"-D{define}" for define in defines]
    options += [f"--include-path={path}" for path in driver._headers()]
    return driver._compile(source, options)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("type", TYPES.values())
def test_kernels_compile(type, generation):
    source = driver.source("kernels")
    binary = compiled(source, generation, f"T={type}")
    kernels = set(re.findall(rb"\.text\.(\w+)", binary))
    assert {b"layer_norm", b"group_apply", b"hear", b"say"} <= kernels
    assert (b"group_norm_8" in kernels) == (int(generation.rstrip("a")) >= 90)


@pytest.mark.parametrize("type", TYPES.values())
def test_gated_product_compiles(type):
    source = driver.source("gated")
    assert b".text.gated" in compiled(source, "90a", f"T={type}")


# Widths of heads in SD 1.x, 2.x and SDXL; how many queries a block has: recorder.py.
@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(
    "width, warps, tiles", [(40, 4, 2), (64, 2, 1), (80, 4, 2), (160, 2, 1)]
)
def test_attention_compiles(width, warps, tiles, generation):
    source = driver.source("attention")
    for type in TYPES.values():
        defines = f"T={type}", f"D={width}", f"WARPS={warps}", f"MT={tiles}"
        assert b".text.attention" in compiled(source, generation, *defines)


@pytest.fixture
def sources(monkeypatch) -> list[str]:
    """Those of the kernels of MLX that are called; they give zeros."""
    found: list[str] = []

    def kernel(name, input_names, output_names, source, header=""):
        def run(inputs, output_shapes, output_dtypes, template=(), **grid):
            parameters = []
            for at, array in zip(input_names, inputs, strict=True):
                parameters.append(f"const {NAMES[array.dtype]}* {at}")
                if f"{at}_shape" in source:
                    parameters.append(f"const __grid_constant__ Shape {at}_shape")
            for at, dtype in zip(output_names, output_dtypes, strict=True):
                parameters.append(f"{NAMES[dtype]}* {at}")
            constants = "".join(
                f"using {key} = {NAMES[value]}; "
                if isinstance(value, mx.Dtype)
                else f"constexpr {type(value).__name__} {key} = {int(value)}; "
                for key, value in template
            )
            head = f'extern "C" __global__ void {name}({", ".join(parameters)})'
            found.append(f"{BEFORE}{header}\n{head} {{ {constants}\n{source}\n}}")
            return [
                mx.zeros(shape, dtype)
                for shape, dtype in zip(output_shapes, output_dtypes, strict=True)
            ]

        return run

    monkeypatch.setattr(mx.fast, "cuda_kernel", kernel)
    for makes in (cuda._norm_kernels, noise_cuda._kernel, transfer._kernel):
        makes.cache_clear()
    yield found
    for makes in (cuda._norm_kernels, noise_cuda._kernel, transfer._kernel):
        makes.cache_clear()


def group_norm(dtype: mx.Dtype) -> None:
    x, w = mx.zeros((1, 8, 8, 320), dtype), mx.zeros(320, dtype)
    cuda.group_norm(x, w, w, 32, 1e-5, silu=True)


def transfers() -> None:
    values = [(mx.zeros((4, 8), dtype), 1 << 40) for dtype in (*TYPES, mx.float32)]
    transfer.put(values, 1 << 41)
    for dtype in TYPES:
        transfer.get(1 << 40, (4, 8), dtype, 1 << 41)


CALLED = {
    "group norm in float16": (partial(group_norm, mx.float16), 2),
    "group norm in bfloat16": (partial(group_norm, mx.bfloat16), 2),
    "group norm in float32": (partial(group_norm, mx.float32), 2),
    "noise": (partial(noise_cuda.normal, 1 << 40, 0, 1000), 1),
    "transfers": (transfers, 3 + 1 + 2 * 2),
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", CALLED)
def test_kernels_that_mlx_compiles_do(name, generation, sources):
    call, count = CALLED[name]
    call()
    assert len(sources) == count
    for source in sources:
        compiled(source, generation)
