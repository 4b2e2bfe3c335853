"""ggml's block types: values equal to the gguf package's, and MLX's packed layout."""

import ctypes
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from blocks import digest, random_bytes

from mlx_sd.convert.dtypes import DTYPES
from mlx_sd.convert.ggml import GGML, TYPE_IDS
from mlx_sd.convert.ggml.packed import PACKABLE, Packed, pack

GOLDEN = np.load(Path(__file__).parent / "golden/ggml.npz")
DECODED = [key[: -len("_digest")] for key in GOLDEN.files if key.endswith("_digest")]
EXACT = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def decoded(name: str, raw: np.ndarray) -> np.ndarray:
    return np.array(GGML[name].decode(raw.reshape(-1)))


def test_every_type_has_the_number_and_size_that_gguf_gives_it():
    rows = [(n, *map(int, numbers)) for n, *numbers in GOLDEN["types"] if n != "Q8_1"]
    assert TYPE_IDS == {name: number for name, number, _, _ in rows}
    assert [(DTYPES[n].block, DTYPES[n].size) for n, *_ in rows] == [
        (values, size) for _, _, values, size in rows
    ]


def test_every_type_of_gguf_is_decoded():
    assert GGML.keys() == {*DECODED, "Q8_K", "Q1_0"}  # gguf has only the size of these


@pytest.mark.parametrize("name", DECODED)
def test_values_equal_those_of_gguf_for_extreme_and_random_bytes(name):
    found, expected = decoded(name, GOLDEN[f"{name}_raw"]), GOLDEN[f"{name}_values"]
    np.testing.assert_array_equal(found, expected)
    assert digest(found) == digest(expected)  # the signs of zeros too


@pytest.mark.parametrize("name", DECODED)
def test_values_of_a_thousand_random_blocks_equal_those_of_gguf(name):
    values = decoded(name, random_bytes(name, 1000 * GGML[name].size))
    assert digest(values) == GOLDEN[f"{name}_digest"]


def test_q8_k_is_a_float32_scale_and_bytes_whose_sums_do_not_matter():
    integers = np.arange(-128, 128, dtype=np.int8)
    raw = np.float32(0.3).tobytes() + integers.tobytes() + b"\xff" * 32
    values = decoded("Q8_K", np.frombuffer(raw, np.uint8))
    np.testing.assert_array_equal(values, np.float32(0.3) * integers)


def test_q1_0_is_a_scale_and_signs_lowest_bit_first():
    raw = np.float16(0.5).tobytes() + bytes([0b00000101, 255]) + bytes(14)
    values = decoded("Q1_0", np.frombuffer(raw, np.uint8))
    positive = {0, 2, *range(8, 16)}
    assert [i for i in range(128) if values[i] == 0.5] == sorted(positive)
    assert set(values) == {0.5, -0.5}


@pytest.mark.parametrize("name", ["Q8_0", "Q3_K", "IQ1_S", "NVFP4"])
def test_a_large_tensor_is_its_parts_one_after_another(name):
    few = 2**20 // GGML[name].block
    raw = random_bytes(name, few * GGML[name].size)
    part, whole = decoded(name, raw), decoded(name, np.tile(raw, 3))
    np.testing.assert_array_equal(whole, np.tile(part, 3))


@pytest.mark.parametrize("name", ["Q4_0", "Q5_K", "IQ2_S"])
def test_decoding_takes_little_memory_besides_the_result(name):
    raw = np.zeros(2**25 // GGML[name].block * GGML[name].size, np.uint8)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    tracemalloc.start()
    try:
        values = GGML[name].decode(raw)
        mx.eval(values)
        arrays = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert mx.get_peak_memory() - before + arrays - values.nbytes < 32e6


def dequantized(packed: Packed) -> np.ndarray:
    return from_groups(packed, packed.scales, packed.biases)


def from_groups(packed: Packed, *scales_and_biases: mx.array) -> np.ndarray:
    scales, biases = (x.astype(mx.float32) for x in scales_and_biases)
    return np.array(
        mx.dequantize(packed.weight, scales, biases, group_size=32, bits=packed.bits)
    )


@pytest.mark.parametrize("name", EXACT)
def test_packed_weights_are_the_values_of_gguf_exactly(name):
    expected = GOLDEN[f"{name}_sane_values"]
    packed = pack(name, GOLDEN[f"{name}_sane_raw"].reshape(-1), expected.shape)
    np.testing.assert_array_equal(dequantized(packed), expected)


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K"])
def test_packed_k_types_are_off_by_one_rounding_of_scale_and_bias(name):
    expected = GOLDEN[f"{name}_sane_values"]
    packed = pack(name, GOLDEN[f"{name}_sane_raw"].reshape(-1), expected.shape)
    scales = np.repeat(np.array(packed.scales, np.float32), 32, axis=1)
    biases = np.repeat(np.array(packed.biases, np.float32), 32, axis=1)
    q = from_groups(packed, mx.ones((4, 16)), mx.zeros((4, 16)))
    bound = 2**-11 * (np.abs(scales) * q + np.abs(biases)) + 2**-25 * (q + 1)
    error = np.abs(dequantized(packed) - expected)
    assert (error <= bound * (1 + 2**-10)).all() and error.any()


@pytest.mark.parametrize("name", PACKABLE)
def test_packed_weights_are_what_mlx_multiplies_with(name):
    expected = GOLDEN[f"{name}_sane_values"]
    packed = pack(name, GOLDEN[f"{name}_sane_raw"].reshape(-1), expected.shape)
    assert packed.weight.shape == (4, 512 * packed.bits // 32)
    assert packed.weight.dtype == mx.uint32
    assert packed.scales.shape == packed.biases.shape == (4, 16)
    assert packed.scales.dtype == packed.biases.dtype == mx.float16
    product = mx.quantized_matmul(
        mx.eye(512),
        packed.weight,
        packed.scales.astype(mx.float32),
        packed.biases.astype(mx.float32),
        group_size=32,
        bits=packed.bits,
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.array(product).T, expected, atol=1e-3 * scale)


def block(name: str, *scales: float) -> np.ndarray:
    raw = np.full(GGML[name].size, 0x7F, np.uint8)
    halves = np.array(scales, np.float16).view(np.uint8)
    raw[: len(halves)] = halves
    return raw


@pytest.mark.parametrize(
    "name, scale",
    [
        ("Q4_0", 8188),
        ("Q5_0", 4094),
        ("Q8_0", 511.75),
        ("Q4_1", 65504),
        ("Q5_1", -65504),
    ],
)
def test_a_scale_whose_bias_float16_cannot_hold_is_not_packed(name, scale):
    shape = (1, 32)
    packed = pack(name, block(name, scale, 1), shape)
    expected = decoded(name, block(name, scale, 1)).reshape(shape)
    np.testing.assert_array_equal(dequantized(packed), expected)
    for larger in (np.inf, -np.inf, np.nan, 2 * scale):
        if larger != 2 * scale or name in ("Q4_0", "Q5_0", "Q8_0"):
            assert pack(name, block(name, larger, 1), shape) is None


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K"])
def test_a_k_scale_that_float16_cannot_hold_is_not_packed(name):
    assert pack(name, block(name, 1000, 1000), (1, 256)) is not None  # times 63
    assert pack(name, block(name, 1100, 1), (1, 256)) is None
    assert pack(name, block(name, 1, 1100), (1, 256)) is None
    assert pack(name, block(name, np.nan, 1), (1, 256)) is None


@pytest.mark.peers
@pytest.mark.parametrize("name", DECODED)
def test_values_of_a_million_random_bytes_equal_those_of_gguf_live(name):
    gguf = pytest.importorskip("gguf")
    raw = np.random.default_rng().integers(0, 256, (20_000, GGML[name].size), np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(raw, gguf.GGMLQuantizationType[name])
    assert digest(decoded(name, raw)) == digest(expected.reshape(-1))


@pytest.mark.peers
def test_values_of_q8_k_equal_those_of_ggml_live():
    folder = Path(find_spec_or_skip("stable_diffusion_cpp")).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("libstable-diffusion.*"))))
    raw = random_bytes("Q8_K", 1000 * 292)
    expected = np.empty(256_000, np.float32)
    library.dequantize_row_q8_K(
        raw.ctypes.data_as(ctypes.c_void_p),
        expected.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(expected.size),
    )
    assert digest(decoded("Q8_K", raw)) == digest(expected)


def find_spec_or_skip(package: str) -> str:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    return spec.origin
