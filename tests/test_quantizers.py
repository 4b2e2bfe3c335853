"""The blocks that we write: gguf's bytes, and no more error than ggml's K types."""

from pathlib import Path

import numpy as np
import pytest
from rows import edge_rows, random_float16, rms, weights

from mlx_sd.convert.ggml import GGML
from mlx_sd.convert.ggml.quantize import QUANTIZERS

GOLDEN = np.load(Path(__file__).parent / "golden/quantizers.npz")
SEARCHED = [name for name in QUANTIZERS if name.endswith("_K")]
ROUNDED = [name for name in QUANTIZERS if name not in SEARCHED]
WEIGHTS = weights()
for values in WEIGHTS.values():
    values.flags.writeable = False  # no quantiser may work in its argument


def decoded(name: str, values: np.ndarray) -> np.ndarray:
    """What is left of the values after quantising them."""
    raw = QUANTIZERS[name](values)
    return np.array(GGML[name].decode(raw.reshape(-1))).reshape(values.shape)


@pytest.mark.parametrize("name", ROUNDED)
def test_blocks_are_those_of_gguf_byte_for_byte(name):
    np.testing.assert_array_equal(QUANTIZERS[name](edge_rows()), GOLDEN[name])


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_k_types_have_no_more_error_than_those_of_ggml(name, kind):
    by_convert, by_default = GOLDEN[name][list(WEIGHTS).index(kind)]
    ours = rms(decoded(name, WEIGHTS[kind]), WEIGHTS[kind])
    assert ours <= min(by_convert, by_default)


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("value", [0.0, 0.3, -0.3, 65504, -65504])
def test_k_types_keep_a_constant_to_float16_precision(name, value):
    values = np.full((1, 256), value, np.float32)
    np.testing.assert_allclose(decoded(name, values), values, rtol=2**-11)


@pytest.mark.parametrize("name", SEARCHED)
def test_k_types_keep_values_whose_scales_float16_hardly_holds(name):
    values = 1e-6 * WEIGHTS["normal"]
    assert rms(decoded(name, values), values) < 0.3e-6  # 1e-6 if all were 0


@pytest.mark.parametrize("name", SEARCHED)
def test_k_types_of_all_that_float16_holds_are_finite(name):
    rows = edge_rows()
    assert np.isfinite(decoded(name, rows[np.abs(rows).max(axis=1) < 65505])).all()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_each_row_is_quantised_by_itself(name):
    values = WEIGHTS["rows"][:, : GGML[name].block]
    whole = QUANTIZERS[name](values)
    for count in (1, 5, 63):
        parts = [values[at : at + count] for at in range(0, len(values), count)]
        pieces = np.concatenate([QUANTIZERS[name](part) for part in parts])
        np.testing.assert_array_equal(pieces, whole)
    np.testing.assert_array_equal(QUANTIZERS[name](values[::2]), whole[::2])


@pytest.mark.parametrize("name", QUANTIZERS)
def test_rows_have_whole_blocks_or_none(name):
    kind = GGML[name]
    for shape in ((0, kind.block), (3, 0), (2, 3 * kind.block)):
        raw = QUANTIZERS[name](np.ones(shape, np.float32))
        assert raw.shape == (shape[0], shape[1] // kind.block * kind.size)
    with pytest.raises(ValueError):
        QUANTIZERS[name](np.ones((kind.block, kind.block // 2), np.float32))


@pytest.fixture(scope="module")
def peers():
    for package in ("gguf", "stable_diffusion_cpp"):
        pytest.importorskip(package, exc_type=ImportError)
    import make_quantizers

    return make_quantizers


@pytest.mark.peers
@pytest.mark.parametrize("name", ROUNDED)
def test_blocks_are_those_of_gguf_byte_for_byte_live(name, peers):
    rng = np.random.default_rng()
    every = np.arange(0x7C00, dtype=np.uint16)
    every = rng.permutation(np.concatenate([every, every | 0x8000])).view(np.float16)
    normal = rng.standard_normal((2000, 256)) * 10 ** rng.uniform(-44, 37, (2000, 1))
    for values in (
        every.astype(np.float32).reshape(-1, 256),
        np.rint(every.astype(np.float32) * 8).reshape(-1, 256) / 16,
        normal.astype(np.float32),
        random_float16(str(rng.random()), 2**18).reshape(-1, 512),
        *WEIGHTS.values(),
    ):
        expected = peers.quantize(values, name)
        np.testing.assert_array_equal(QUANTIZERS[name](values), expected)


@pytest.mark.peers
@pytest.mark.parametrize("name", SEARCHED)
def test_k_types_have_no_more_error_than_those_of_ggml_live(name, peers):
    rng = np.random.default_rng()
    for freedom in (1.5, 2, 3, 5, 10, 100):
        values = rng.standard_t(freedom, (256, 1280)) * np.exp(rng.normal(-4, 1))
        values = values.astype(np.float16).astype(np.float32)
        ours = rms(peers.dequantize(QUANTIZERS[name](values), name), values)
        for importance in (True, False):
            theirs = peers.quantize_by_ggml(values, name, importance)
            assert ours <= rms(peers.dequantize(theirs, name), values)
