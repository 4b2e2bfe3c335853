"""Every variant of an operation against its reference, which parity tests cover."""

import shutil

import mlx.core as mx
import numpy as np
import pytest
from arrays_memory import taken

from mlx_sd.kernels import OPERATIONS, chunked, cpu, cuda, plain, reference
from mlx_sd.kernels.dispatch import Operation, Variant, backend
from mlx_sd.kernels.packed import Packed

# ‖variant - reference‖ / ‖reference‖, the latter in float32; a type rounds at half that
BOUNDS = {mx.float32: 1e-5, mx.float16: 2e-3, mx.bfloat16: 1.6e-2}

# operation → arguments: a tuple is the shape of an array
CASES = {
    "affine_conv": [
        ((2, 9, 11, 32), (2, 2, 32), (48, 3, 3, 32), (48,)),
        ((1, 16, 13, 17), (1, 2, 17), (19, 3, 3, 17), None),
    ],
    "attention": [
        ((2, 64, 40), (2, 64, 40), (2, 64, 40), 1),
        ((2, 100, 320), (2, 77, 320), (2, 77, 320), 8),
        ((1, 577, 80), (1, 577, 80), (1, 577, 80), 2),
        ((1, 65, 512), (1, 65, 512), (1, 65, 512), 1),
        ((3, 7, 24), (3, 1, 24), (3, 1, 24), 3),
        ((1, 77, 128), (1, 77, 128), (1, 77, 128), 2, "causal"),
    ],
    "conv": [
        ((2, 16, 16, 32), (64, 3, 3, 32), (64,)),
        ((1, 13, 7, 5), (3, 3, 3, 5), (3,)),
        ((1, 33, 34, 48), (40, 3, 3, 48)),
        ((2, 9, 12, 17), (19, 3, 3, 17), (19,), 2, 1),
        ((1, 11, 12, 17), (19, 3, 3, 17), (19,), 2, 0),
        ((1, 6, 5, 8), (12, 1, 1, 8), (12,), 1, 0),
    ],
    "geglu": [((2, 5, 64),), ((1, 333, 2560),)],
    "gelu": [((5, 7),), ((1, 77, 3072),)],
    "group_norm": [
        ((2, 8, 8, 32), (32,), (32,), 32, 1e-5),
        ((1, 13, 7, 96), (96,), (96,), 32, 1e-6, True),
        ((3, 1, 1, 40), (40,), (40,), 4, 1e-5, True),
        ((2, 65, 63, 320), (320,), (320,), 32, 1e-5, True),
    ],
    "layer_norm": [
        ((2, 9, 320), (320,), (320,), 1e-5),
        ((1, 3, 7), (7,), (7,), 1e-5),
    ],
    "linear": [
        ((2, 65, 40), (24, 40), (24,)),
        ((3, 7), (5, 7)),
        ((1, 130, 320), (333, 320), (333,)),
        ((2, 65, 40), (24, 40), (24,), (2, 65, 24)),
        ((1, 700, 48), (600, 48), None, (1, 700, 600)),
    ],
    "moments": [((2, 8, 8, 32),), ((1, 65, 63, 7),), ((3, 1, 1, 40),)],
    "norm_conv": [
        ((2, 9, 11, 32), (48, 3, 3, 32), (48,), (32,), (32,), 32, 1e-5),
        ((1, 16, 13, 96), (19, 3, 3, 96), None, (96,), (96,), 32, 1e-6),
        ((3, 5, 7, 40), (8, 3, 3, 40), (8,), (40,), (40,), 4, 1e-5),
    ],
    "quick_gelu": [((5, 7),), ((1, 77, 3072),)],
    "silu": [((5, 7),), ((2, 65, 1281),)],
    "upsample_conv": [
        ((2, 8, 8, 32), (48, 3, 3, 32), (48,)),
        ((1, 7, 13, 5), (3, 3, 3, 5), (3,)),
    ],
}

WITH_WEIGHTS = ("linear", "conv", "norm_conv", "upsample_conv")


def arguments(case: tuple, dtype: mx.Dtype, weights: mx.Dtype) -> list:
    """Arrays of normal numbers; a second one and those after it are weights."""
    rng = np.random.default_rng(0)
    made: list = []
    for i, value in enumerate(case):
        if isinstance(value, tuple):
            array = rng.standard_normal(value, dtype=np.float32)
            value = mx.array(array).astype(weights if i else dtype)
        made.append(value)
    return made


def error(ours: mx.array, reference: mx.array) -> float:
    a, b = (np.array(x.astype(mx.float32), np.float64) for x in (ours, reference))
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def runs(name: str, args: list) -> list:
    """What is chosen, and every variant that could be."""
    operation, here = OPERATIONS[name], backend()
    fit = [v for v in operation.variants if v.backend == here and v.fits(*args)]
    return [operation, *(variant.run for variant in fit)]


def test_every_operation_has_cases():
    assert OPERATIONS.keys() == CASES.keys()


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_variants_agree_with_the_reference(name, dtype):
    for case in CASES[name]:
        args = arguments(case, dtype, dtype)
        wide = [a.astype(mx.float32) if isinstance(a, mx.array) else a for a in args]
        expected = getattr(reference, name)(*wide)
        for run in runs(name, args):
            ours = run(*args)
            wide_always = name == "moments"
            assert ours.dtype == (mx.float32 if wide_always else dtype), (run, case)
            assert error(ours, expected) < BOUNDS[dtype], (run, case)


@pytest.mark.parametrize("name", ["conv", "upsample_conv"])
def test_convolutions_as_products_agree_with_the_reference(name):
    """Those of CUDA without TF32, which any backend can run."""
    for case in CASES[name]:
        args = arguments(case, mx.float32, mx.float32)
        ours = getattr(cuda, f"exact_{name}")(*args)
        assert error(ours, getattr(reference, name)(*args)) < BOUNDS[mx.float32], case


def test_convolutions_as_products_take_a_few_maps():
    x, weight = mx.zeros((1, 128, 128, 64)), mx.zeros((64, 3, 3, 64))
    mx.eval(x, weight)
    assert taken(lambda: mx.eval(cuda.exact_conv(x, weight))) < 6 * x.nbytes


@pytest.mark.parametrize(
    "name, parts", [("conv", 1), ("exact_conv", 9), ("upsample_conv", 1)]
)
def test_convolutions_wait_for_memory(name, parts, waits):
    getattr(cuda, name)(mx.ones((1, 8, 8, 4)), mx.ones((4, 3, 3, 4)))
    assert waits == ["eval", "synchronize"] * parts


def test_chunked_attention_waits_for_memory(waits, monkeypatch):
    monkeypatch.setattr(chunked, "_ROWS", 16)
    x = mx.ones((1, 64, 160))
    chunked.attention(x, x, x, 1)
    assert waits == ["eval", "synchronize"] * 4


def test_chunked_attention_is_the_reference(monkeypatch):
    monkeypatch.setattr(chunked, "_ROWS", 16)
    mx.random.seed(4)
    q, k, v = (mx.random.normal((2, n, 160)) for n in (37, 50, 50))
    out = chunked.attention(q, k, v, 1)
    assert mx.allclose(out, reference.attention(q, k, v, 1), atol=2e-5)


def test_only_wide_heads_with_many_scores_are_chunked():
    few, many = mx.zeros((1, 4096, 512)), mx.zeros((1, 4104, 512))
    assert not chunked.fits(few, few, few, 1)
    assert chunked.fits(many, many, many, 1)
    assert not chunked.fits(many, many, many, 8)
    assert not chunked.fits(many, many, many, 1, "causal")  # parts know no mask


@pytest.mark.parametrize("gpu", ["cuda", "metal"])
def test_wide_heads_with_many_scores_are_chunked_on_gpus(gpu):
    x = mx.zeros((1, 4104, 512))
    variants = OPERATIONS["attention"].variants
    fit = [v.run for v in variants if v.backend == gpu and v.fits(x, x, x, 1)]
    assert fit == [chunked.attention]


def test_only_without_tf32_are_convolutions_products(monkeypatch):
    x = mx.zeros((1, 4, 4, 8))
    monkeypatch.setenv("MLX_ENABLE_TF32", "0")
    assert cuda.is_exact(x) and not cuda.is_exact(x.astype(mx.float16))
    monkeypatch.delenv("MLX_ENABLE_TF32")
    assert not cuda.is_exact(x)


@pytest.mark.parametrize("weights", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_weights_may_be_of_another_type(name, weights):
    for case in CASES[name]:
        args = arguments(case, mx.float32, weights)
        wide = [a.astype(mx.float32) if isinstance(a, mx.array) else a for a in args]
        ours = OPERATIONS[name](*args)
        assert ours.dtype == mx.float32
        assert error(ours, getattr(reference, name)(*wide)) < BOUNDS[mx.float32]


@pytest.mark.parametrize("weights", BOUNDS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_what_is_no_number_stays_so(name, weights):
    """Else a broken weight or a value beyond float16 would make a wrong picture."""
    for case in CASES[name]:
        args = arguments(case, mx.float32, mx.float32)
        for i, value in enumerate(args):
            if not isinstance(value, mx.array):
                continue
            broken = np.array(value)
            broken.reshape(-1)[broken.size // 2] = np.nan
            given = [mx.array(broken) if j == i else a for j, a in enumerate(args)]
            if name in WITH_WEIGHTS:
                given[1] = given[1].astype(weights)
            lost = mx.isnan(getattr(reference, name)(*given))
            assert lost.any()
            for run in runs(name, given):
                ours = mx.isnan(run(*given))
                assert not (lost & ~ours).any(), (run, case, i)


def test_the_first_variant_that_fits_is_chosen():
    def plus(amount: int):
        return lambda x: x + amount

    small, any_ = (lambda x: x.size < 3), (lambda x: True)
    operation = Operation(
        plus(1),
        Variant("elsewhere", any_, plus(2)),
        Variant(backend(), small, plus(3)),
        Variant(backend(), lambda x: x.size < 5, plus(4)),
    )
    assert operation(mx.zeros(2)).tolist() == [3, 3]
    assert operation(mx.zeros(4)).tolist() == [4] * 4
    assert operation(mx.zeros(6)).tolist() == [1] * 6


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_weights_may_be_packed(name, bits):
    shape = {"linear": (65, 96)}.get(name, (19, 3, 3, 32))
    norm = ((32,), (32,), 8, 1e-5) if name == "norm_conv" else ()
    x, weight, bias, *more = arguments(
        ((2, 9, 11, shape[-1]), shape, shape[:1], *norm), mx.float32, mx.float32
    )
    words, *scales = mx.quantize(weight.reshape(len(weight), -1), 32, bits)
    packed = Packed(words, *(a.astype(mx.float16) for a in scales), weight.shape)
    assert packed.bits == bits
    values = mx.dequantize(
        words, *(a.astype(mx.float32) for a in packed[1:3]), 32, bits
    )
    expected = getattr(reference, name)(x, values.reshape(weight.shape), bias, *more)
    for run in (OPERATIONS[name], getattr(reference, name)):
        assert error(run(x, packed, bias, *more), expected) < BOUNDS[mx.float32]


on_cpu = pytest.mark.skipif(backend() != "cpu", reason="kernels of the CPU")


@on_cpu
@pytest.mark.parametrize("name", CASES)
def test_native_kernels_write_all_of_what_they_give(name, monkeypatch):
    """Since their memory holds anything before: here what is no number."""
    given = []

    def spoilt(shape):
        given.append(mx.full(shape, float("nan")))
        return given[-1]

    monkeypatch.setattr(cpu, "_unwritten", spoilt)
    for case in CASES[name]:
        out = OPERATIONS[name](*arguments(case, mx.float32, mx.float32))
        assert mx.isfinite(out).all(), case
    assert given or cpu.library() is None


@pytest.mark.parametrize("shape", [(3, 5), (2, 1 << 18), (1, 700, 3, 400)])
def test_unwritten_arrays_are_float32_and_there_to_be_written(shape):
    with mx.stream(mx.cpu):
        array = cpu._unwritten(shape)
        mx.eval(array)
        assert array.shape == shape and array.dtype == mx.float32
        np.asarray(array)[...] = 3
        assert array.sum() == 3 * array.size


@on_cpu
def test_without_a_compiler_plain_mlx_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert cpu.library.__wrapped__() is None
    monkeypatch.setattr(cpu, "library", lambda: None)
    x = mx.ones((2, 3))
    assert not cpu.ready(x)
    assert error(OPERATIONS["silu"](x), plain.silu(x)) == 0


@on_cpu
@pytest.mark.parametrize("failure", ["exit 1", 'echo nonsense > "$2"'])
def test_a_compiler_that_fails_is_as_none(failure, monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n{failure}\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: str(compiler))
    assert cpu.library.__wrapped__() is None


@on_cpu
def test_the_native_kernels_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("MLX_SD_NATIVE", "off")
    assert cpu.library.__wrapped__() is None
