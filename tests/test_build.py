"""A model made of quantised tensors computes with their values, and stays small."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_sd.build import build
from mlx_sd.convert.detect import Parameter, Parameters, identify
from mlx_sd.convert.dtypes import DTYPES
from mlx_sd.convert.ggml.packed import PACKABLE
from mlx_sd.convert.ggml.quantize import QUANTIZERS
from mlx_sd.convert.layouts import CONV
from mlx_sd.convert.readers import Entry
from mlx_sd.nn.compact import Compact, CompactLinear
from mlx_sd.nn.linear import Linear
from mlx_sd.opening import open_source
from mlx_sd.quantize import hold, parse_rules

PARTS = ("unet", "vae", "clip_l")
INPUTS = {  # what to compute with a part
    "unet": lambda unet: unet(noise(1, 8, 8, 4), mx.array([500.0]), noise(1, 77, 128)),
    "vae": lambda vae: vae.decode(noise(1, 4, 4, 4)),
    "clip_l": lambda clip: clip(mx.arange(77)[None]).hidden,
}


def noise(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


@pytest.fixture(scope="module")
def parts(small) -> dict[str, Parameters]:
    return open_source(small).contents.parts


def stored(parameter: Parameter, dtype: str, data: np.ndarray) -> Parameter:
    raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    entry = parameter.entry
    entry = replace(entry, dtype=dtype, nbytes=raw.nbytes, raw=lambda: raw)
    return Parameter(entry, parameter.layout)


def in_gguf(parameter: Parameter, dtype: str) -> tuple[Parameter, Parameter]:
    """As a GGUF file has it, blocks along the last axis, and its values in float32."""
    values = np.array(parameter.entry.read().astype(mx.float32))
    if parameter.layout is CONV or parameter.entry.shape[-1] % DTYPES[dtype].block:
        return parameter, stored(parameter, "F32", values)
    raw = QUANTIZERS[dtype](values.reshape(-1, values.shape[-1])).reshape(-1)
    decoded = np.array(DTYPES[dtype].decode(raw))
    if dtype not in PACKABLE and values.ndim > 1:
        decoded = decoded.astype(np.float16).astype(np.float32)
    return stored(parameter, dtype, raw), stored(parameter, "F32", decoded)


def size(model: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_1", "Q5_0", "Q6_K"])
@pytest.mark.parametrize("part", PARTS)
def test_a_file_of_blocks_computes_as_one_of_their_values(part, dtype, parts):
    both = {name: in_gguf(p, dtype) for name, p in parts[part].items()}
    blocks = {name: pair[0] for name, pair in both.items()}
    values = {name: pair[1] for name, pair in both.items()}
    assert any(p.entry.dtype == dtype for p in blocks.values()) or dtype == "Q6_K"
    packed, dense = (build(part, each, mx.float32) for each in (blocks, values))
    ours, expected = (np.array(INPUTS[part](model)) for model in (packed, dense))
    np.testing.assert_allclose(
        ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_blocks_are_packed_where_rows_are_kept_and_else_dense(parts):
    blocks = {name: in_gguf(p, "Q8_0")[0] for name, p in parts["clip_l"].items()}
    clip = build("clip_l", blocks, mx.float32)
    assert (
        isinstance(clip.token, nn.Embedding) and clip.token.weight.dtype == mx.float32
    )
    assert clip.final_norm.weight.dtype == mx.float32
    layer = clip.layers[1].attn.out
    assert isinstance(layer, Compact) and layer.weight.dtype == mx.uint32
    assert layer.scales.dtype == mx.float16 and layer.bias.dtype == mx.float32


def test_the_rows_of_a_fused_tensor_stay_packed():
    name = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
    values = np.arange(3 * 64 * 64, dtype=np.float32).reshape(3, 64, 64) % 97
    raw = QUANTIZERS["Q8_0"](values.reshape(192, 64)).reshape(-1)
    entry = Entry(Path("x"), name, "Q8_0", (192, 64), raw.nbytes, lambda: raw)
    (parameters,) = identify({name: entry}).parts.values()
    expected = np.array(DTYPES["Q8_0"].decode(raw)).reshape(values.shape)
    for i, letter in enumerate("qkv"):
        held = hold(parameters[f"layers.0.attn.{letter}.weight"], "Q8_0", mx.float32)
        layer = CompactLinear(Linear(64, 64), held)
        np.testing.assert_array_equal(np.array(layer.dense(mx.float32)), expected[i])


@pytest.mark.parametrize(
    "type, most",
    [("f16", 16.2), ("q8_0", 9.8), ("q5_1", 6.9), ("q4_0", 6.0)],  # bits per weight
)
def test_a_quantised_unet_is_as_small_as_its_bits(type, most, parts):
    unet = build("unet", parts["unet"], mx.float32, parse_rules(type, None))
    count = sum(np.prod(p.shape) for p in parts["unet"].values())
    assert 8 * size(unet) / count < most


@pytest.mark.parametrize("type", ["f16", "q8_0"])
def test_dense_weights_live_for_one_use_at_a_time(type, parts):
    unet = build("unet", parts["unet"], mx.float32, parse_rules(type, None))
    inputs = noise(1, 8, 8, 4), mx.array([500.0]), noise(1, 77, 128)
    mx.eval(inputs)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(unet(*inputs))
    dense = 4 * sum(np.prod(p.shape) for p in parts["unet"].values())
    # 0.11 of it on a CPU. CUDA frees what a graph of many operations used when all of
    # that has run: 0.68 and 0.54 of this small network.
    most = dense / 2 if mx.default_device() == mx.cpu else 0.9 * dense
    assert mx.get_peak_memory() - before < most


@pytest.mark.parametrize("part", PARTS)
def test_quantising_at_load_changes_the_result_little(part, parts):
    dense, packed = (
        np.array(
            INPUTS[part](build(part, parts[part], mx.float32, parse_rules(t, None)))
        )
        for t in (None, "q8_0")
    )
    error = np.sqrt(np.mean(np.square(packed - dense)))
    assert 0 < error < 0.05 * dense.std()
