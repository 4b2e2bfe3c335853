"""Which weights are held in which type, and that their values are gguf's."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from click.testing import CliRunner
from rows import edge_rows, weights

from mlx_sd import ConfigError, Request, load
from mlx_sd.cli import main
from mlx_sd.convert.detect import Parameter
from mlx_sd.convert.ggml import GGML
from mlx_sd.convert.ggml.packed import PACKABLE
from mlx_sd.convert.layouts import CONV, POINT, ROWS, SAME, TRANSPOSED, Layout
from mlx_sd.convert.readers import Entry
from mlx_sd.kernels.packed import unpack
from mlx_sd.nn.compact import COMPACT, Compact
from mlx_sd.nn.linear import Conv2d, Linear
from mlx_sd.quantize import held_type, hold, parse_rules

GOLDEN = Path(__file__).parent / "golden"
BLOCKS = np.load(GOLDEN / "ggml.npz")
QUANTIZED = np.load(GOLDEN / "quantizers.npz")
LINEAR, CONVOLUTION = Linear(64, 8), Conv2d(64, 8, 3)


def parameter(
    data: np.ndarray,
    dtype: str,
    shape: tuple[int, ...],
    layout: Layout = SAME,
    name: str = "x.weight",
) -> Parameter:
    """A tensor that a file holds as `data`'s bytes."""
    raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    entry = Entry(Path("x"), name, dtype, shape, raw.nbytes, lambda: raw)
    return Parameter(entry, layout)


def compact(layer: nn.Module, held: dict[str, mx.array]) -> Compact:
    return COMPACT[type(layer)](layer, held)


def dense(layer: nn.Module, held: dict[str, mx.array]) -> np.ndarray:
    return np.array(compact(layer, held).dense(mx.float32))


# --- Values ---


@pytest.mark.parametrize("name", PACKABLE)
def test_blocks_of_a_file_have_the_values_that_gguf_gives_them(name):
    raw, expected = BLOCKS[f"{name}_sane_raw"], BLOCKS[f"{name}_sane_values"]
    held = hold(parameter(raw, name, expected.shape), name, mx.float32)
    values = dense(Linear(512, 4), held)
    if name.endswith("_K"):  # their scales are rounded to float16, says pack
        largest = np.abs(expected).max()
        assert np.abs(values - expected).max() <= 2.0**-11 * 3 * largest + 2.0**-20
    else:
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("name", [name for name in QUANTIZED if "_K" not in name])
def test_what_is_quantised_here_has_the_values_of_ggufs_blocks(name):
    rows, blocks = edge_rows(), QUANTIZED[name]
    fit = np.abs(rows).max(axis=1) < 6e4  # beyond, so are scales
    layer, shape = Linear(256, int(fit.sum())), rows[fit].shape
    held = hold(parameter(rows[fit], "F32", shape), name, mx.float32)
    expected = hold(parameter(blocks[fit], name, shape), name, mx.float32)
    np.testing.assert_array_equal(dense(layer, held), dense(layer, expected))


def test_a_convolution_is_quantised_along_all_that_one_output_is_made_of():
    values = weights()["normal"][:8, :576].reshape(8, 64, 3, 3)  # of 64 channels
    held = hold(parameter(values, "F32", values.shape, CONV), "Q8_0", mx.float32)
    assert held["weight"].shape == (8, 576 * 8 // 32)
    found, ours = dense(CONVOLUTION, held), values.transpose(0, 2, 3, 1)
    groups = np.abs(ours.reshape(8, 18, 32)).max(axis=-1, keepdims=True)
    error = np.abs(found - ours).reshape(8, 18, 32)
    assert (error <= groups / 127 * 0.57).all()  # half a step; the scale is rounded


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_integers_come_out_of_the_words_that_mlx_packs_them_in(bits):
    values = mx.array(weights()["normal"])
    words, scales, biases = mx.quantize(values, group_size=32, bits=bits)
    ones, nothing = mx.ones_like(scales), mx.zeros_like(scales)
    expected = mx.dequantize(words, ones, nothing, group_size=32, bits=bits)
    found = unpack(words, bits).reshape(values.shape)
    np.testing.assert_array_equal(np.array(found), np.array(expected))


@pytest.mark.parametrize("name", PACKABLE)
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e10])
def test_a_weight_that_no_block_can_hold_stays_float(value, name):
    rows = weights()["normal"][:4, :512].copy()
    rows[1, 300] = value
    assert hold(parameter(rows, "F32", rows.shape), name, mx.float32) is None


UNPACKED = [name for name in GGML if name not in PACKABLE and f"{name}_raw" in BLOCKS]


@pytest.mark.parametrize("name", UNPACKED)
def test_blocks_that_mlx_lacks_become_float16_if_that_holds_them(name):
    raw = BLOCKS[f"{name}_raw"].reshape(-1, GGML[name].size)
    values = BLOCKS[f"{name}_values"].reshape(len(raw), -1)
    for block, expected in zip(raw, values, strict=True):
        tensor = parameter(block, name, (1, len(expected)))
        wanted = held_type("x", tensor, LINEAR, parse_rules(None, None))
        held = hold(tensor, wanted, mx.float32)
        with np.errstate(over="ignore"):
            halves = expected.astype(np.float16)
        if (np.isinf(halves) & np.isfinite(expected)).any():
            assert held is None
        else:
            assert held["weight"].dtype == mx.float16
            np.testing.assert_array_equal(np.array(held["weight"])[0], halves)
        assert hold(tensor, wanted, mx.float16) is None  # which is computed in anyway


@pytest.mark.parametrize("value", [65519, 65520, -7e4, np.inf, np.nan])
@pytest.mark.parametrize("stored", ["F32", "BF16", "F64"])
@pytest.mark.parametrize("rows", [4, 4096])  # the latter in several shares
def test_what_float16_would_make_infinite_stays_wider(rows, stored, value):
    values = np.resize(weights()["normal"][:4, :512], (rows, 512)).astype(np.float32)
    values[1, 300] = value
    data = {
        "F32": values,
        "BF16": (values.view(np.uint32) >> 16).astype("<u2"),
        "F64": values.astype("<f8"),
    }[stored]
    held = hold(parameter(data, stored, values.shape), "F16", mx.float32)
    number = np.float32(value)  # as bfloat16 it is cut off, and 65519 is 65280
    beyond = stored != "BF16" and value == 65520 or value == -7e4
    assert (held is None) == beyond
    if held is not None:
        assert held["weight"].dtype == mx.float16
        found = np.array(held["weight"])[1, 300]
        assert np.isfinite(found) == np.isfinite(number)


ROUNDING = {mx.float32: 1e-5, mx.float16: 4e-3, mx.bfloat16: 3e-2}  # a few last bits


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("wanted", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_layer_computes_what_one_with_dense_weights_does(kind, wanted, dtype):
    new = {
        "linear": lambda: Linear(64, 8),
        "convolution": lambda: Conv2d(64, 8, 3),
    }
    layer = new[kind]()
    layer.bias = mx.arange(8).astype(dtype)
    shape = layer.weight.shape
    values = weights()["normal"].reshape(-1)[: layer.weight.size].reshape(shape)
    held = hold(parameter(values, "F32", shape), wanted, mx.float64)
    found = compact(layer, held)
    layer.weight = found.dense(mx.float32).astype(dtype)
    x = mx.random.normal((2, 5, 5, 64), key=mx.random.key(1)).astype(dtype)
    assert found(x).dtype == dtype
    y, expected = (np.array(a.astype(mx.float32)) for a in (found(x), layer(x)))
    assert np.abs(y - expected).max() <= ROUNDING[dtype] * np.abs(expected).max()


# --- Choices ---

WIDE = (8, 512)


@pytest.mark.parametrize(
    "asked, layer, stored, held",
    [
        # As in the file, where MLX can hold it; else blocks become float16.
        (None, LINEAR, ("F16", WIDE, SAME), None),
        (None, LINEAR, ("Q8_0", WIDE, SAME), "Q8_0"),
        (None, LINEAR, ("Q4_K", WIDE, POINT), "Q4_K"),
        (None, LINEAR, ("Q5_0", WIDE, ROWS), "Q5_0"),
        (None, LINEAR, ("Q6_K", WIDE, SAME), "F16"),
        (None, LINEAR, ("Q8_0", (8, 48), SAME), "F16"),  # reshaped after ComfyUI-GGUF
        (None, LINEAR, ("Q8_0", WIDE, TRANSPOSED), "F16"),
        (None, CONVOLUTION, ("Q8_0", (8, 64, 3, 3), CONV), "F16"),
        (None, nn.Embedding(8, 512), ("Q8_0", WIDE, SAME), None),
        (None, nn.LayerNorm(512), ("Q8_0", (512,), SAME), None),
        (None, LINEAR, ("F8_E4M3", WIDE, SAME), None),
        # As asked, where the rows are long enough and a multiple of the type's block.
        ("q8_0", LINEAR, ("F16", WIDE, SAME), "Q8_0"),
        ("q8_0", LINEAR, ("F16", (8, 512, 1, 1), POINT), "Q8_0"),
        ("q8_0", LINEAR, ("Q4_0", WIDE, SAME), "Q8_0"),
        ("q8_0", LINEAR, ("F16", (8, 48), SAME), None),
        ("q8_0", CONVOLUTION, ("F16", (8, 64, 3, 3), CONV), "Q8_0"),
        ("q8_0", CONVOLUTION, ("F16", (8, 4, 3, 3), CONV), None),
        ("q4_K", LINEAR, ("F16", (8, 320), SAME), None),
        ("q4_K", CONVOLUTION, ("F16", (8, 1280, 3, 3), CONV), "Q4_K"),
        ("q8_0", nn.Embedding(8, 512), ("F16", WIDE, SAME), None),
        ("q8_0", nn.LayerNorm(512), ("F16", (512,), SAME), None),
        ("f16", LINEAR, ("Q8_0", WIDE, SAME), "F16"),
        ("f32", LINEAR, ("Q6_K", WIDE, SAME), "F32"),
        ("q4_0", LINEAR, ("Q6_K", WIDE, SAME), "Q4_0"),
        ("bf16", LINEAR, ("F16", (8, 48), SAME), "BF16"),
    ],
)
def test_the_type_that_a_weight_is_held_in(asked, layer, stored, held):
    dtype, shape, layout = stored
    tensor = parameter(np.empty(0), dtype, shape, layout)
    assert held_type("mid.0.x", tensor, layer, parse_rules(asked, None)) == held


@pytest.mark.parametrize(
    "path, name",
    [
        ("time.layers.0", "model.diffusion_model.time_embed.0.weight"),
        ("time.layers.1", "unet.time_embedding.linear_2.weight"),
        ("vector.layers.0", "model.diffusion_model.label_emb.0.0.weight"),
        ("conv_out", "model.diffusion_model.out.2.weight"),
        ("decoder.conv_out", "first_stage_model.decoder.conv_out.weight"),
        ("projection", "cond_stage_model.transformer.text_projection.weight"),
    ],
)
def test_what_reacts_badly_to_rounding_is_not_retyped(path, name):
    tensor = parameter(np.empty(0), "F16", WIDE, SAME, name)
    assert held_type(path, tensor, LINEAR, parse_rules("q8_0", None)) is None


def test_the_first_rule_that_is_found_in_the_files_name_decides():
    rules = parse_rules("q8_0", r"attn1=q4_0,attn\d\.to_[qk]=q5_1,^vae\.=f16")
    expected = {
        "unet.attn1.to_q.weight": "Q4_0",
        "unet.attn2.to_q.weight": "Q5_1",
        "unet.attn2.to_v.weight": "Q8_0",
        "vae.decoder.attn.to_v.weight": "F16",
        "unet.vae.weight": "Q8_0",
    }
    for name, held in expected.items():
        tensor = parameter(np.empty(0), "F16", WIDE, SAME, name)
        assert held_type("attn.q", tensor, LINEAR, rules) == held


@pytest.mark.parametrize(
    "type, rules, says",
    [
        ("q9_0", None, "q9_0.*choose from f32, f16"),
        (
            "q6_K",
            None,
            "type Q6_K: .* not held in it; choose from f32, f16",
        ),
        (None, "attn=q2_K", "type Q2_K"),
        (None, "attn=", "choose from"),
        (None, "attn", "expected regex=type"),
        (None, "att(n=q8_0", "not a regular expression"),
    ],
)
def test_a_type_or_rule_that_cannot_be_is_an_error_of_one_line(type, rules, says):
    with pytest.raises(ConfigError, match=says) as error:
        parse_rules(type, rules)
    assert len(str(error.value).splitlines()) == 1


# --- From outside ---


def test_a_picture_in_q8_0_is_the_float_ones():
    request = Request(prompt="a red house under a night sky", seed=1, steps=4)
    plain, quantised = (
        np.asarray(load(type=type)(request)[0], np.float64) for type in (None, "q8_0")
    )
    error = np.mean(np.square(quantised - plain))
    assert error and 10 * np.log10(255**2 / error) > 35


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--type", "q6_K"], "unknown --type 'q6_K'"),
        (["--tensor-type-rules", "attn=q6_K"], "type Q6_K"),
        (["--tensor-type-rules", "att(n=q8_0"], "not a regular expression"),
    ],
)
def test_a_type_or_rule_that_cannot_be_ends_the_command_with_2(
    arguments, says, tmp_path
):
    output = ["-p", "a house", "-o", str(tmp_path / "x.png")]
    result = CliRunner().invoke(main, ["generate", *output, *arguments])
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert says in line
