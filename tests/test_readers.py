"""Broken and foreign files: one line that names the file, the tensor, what next."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import seeded
from checkpoints import hollow
from safetensors.numpy import save_file

from mlx_sd import CheckpointError
from mlx_sd.convert.readers import read_file
from mlx_sd.load import open_model, open_source

UNET, VAE, TEXT = seeded.UNET, seeded.VAE, seeded.TEXT
CONV = UNET + "input_blocks.2.0.in_layers.2.weight"
TOKENS = TEXT + "embeddings.token_embedding.weight"


def failure(path: Path, function=open_model) -> str:
    """The error's one line, sure to begin with the path."""
    with pytest.raises(CheckpointError) as caught:
        function(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def without(*prefixes):
    return lambda s: {n: v for n, v in s.items() if not n.startswith(prefixes)}


def instead(name, shape):
    return lambda s: {**s, name: shape}


def lora(_):
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    return {f"{name}.lora_down.weight": (8, 320, 1, 1), f"{name}.alpha": ()}


def linear(shapes):
    """SD 2.x has linear projections around its transformers."""
    return {n: s[:2] if ".proj_" in n and UNET in n else s for n, s in shapes.items()}


BROKEN = {
    "missing tensor": (
        without(CONV),
        "1 of the unet's 496 weights are missing, first "
        + UNET
        + "input_blocks.2.0.in_layers.2",
    ),
    "missing outer tensor": (without(UNET + "out.2"), "conv_out.weight is missing"),
    "missing layer": (
        without(TEXT + "encoder.layers.0."),
        "layers.0.fc1.weight is missing",
    ),
    "wrong shape": (
        instead(CONV, (64, 32, 3, 3)),
        f"{CONV} has shape [64, 32, 3, 3], which does not fit",
    ),
    "wrong axes": (instead(TOKENS, (1000,)), "clip_l has the wrong number of axes"),
    "wrong outer axes": (
        instead(UNET + "input_blocks.0.0.weight", (64,)),
        "unet has the wrong number of axes",
    ),
    "no place": (
        instead(VAE + "encoder.down.3.downsample.conv.bias", (128,)),
        "encoder.down.3.downsample.conv.bias has no place in this vae",
    ),
    "one weight twice": (
        instead("vae.decoder.mid.attn_1.q.bias", (128,)),
        "decoder.mid.attn_1.q.bias' are both the vae's decoder.mid.attn.q.bias",
    ),
    "no UNet": (without(UNET), "holds no UNet"),
    "UNet alone": (without(VAE, TEXT), "holds no vae; give one with --vae"),
    "no text encoder": (without(TEXT), "holds no clip_l"),
    "LoRA": (lora, "holds no UNet"),
    "inpainting": (
        instead(UNET + "input_blocks.0.0.weight", (64, 9, 3, 3)),
        "SD 1.x Inpaint models do not run yet; SD 1.x ones do",
    ),
    "SD 2": (linear, "SD 2.x models do not run yet"),
    "SDXL": (
        lambda s: {
            **s,
            UNET + "label_emb.0.0.weight": (256, 2816),
            UNET + "label_emb.0.0.bias": (256,),
        },
        "SDXL models do not run yet",
    ),
    "another VAE": (
        lambda s: {
            **s,
            VAE + "decoder.conv_in.weight": (128, 16, 3, 3),
            VAE + "encoder.conv_out.weight": (32, 128, 3, 3),
            VAE + "encoder.conv_out.bias": (32,),
            VAE + "quant_conv.weight": (32, 32, 1, 1),
            VAE + "quant_conv.bias": (32,),
            VAE + "post_quant_conv.weight": (16, 16, 1, 1),
            VAE + "post_quant_conv.bias": (16,),
        },
        "a VAE with 16 latent channels does not fit",
    ),
    "another text encoder": (
        lambda s: {
            n: tuple({128: 192, 512: 768}.get(x, x) for x in v) if TEXT in n else v
            for n, v in s.items()
        },
        "a text encoder 192 wide does not fit the UNet, which wants 128",
    ),
}


@pytest.mark.parametrize("change, reason", BROKEN.values(), ids=BROKEN.keys())
def test_a_model_that_cannot_run_says_why(change, reason, tmp_path):
    path = hollow(tmp_path / "x.safetensors", change(seeded.small_shapes()))
    message = failure(path)
    assert reason in message
    if "are both" not in message:
        assert message.endswith(f"see what it holds with: mlx-sd inspect {path}")


def tiny(path: Path) -> bytes:
    rng = np.random.default_rng(0)
    tensors = {n: rng.normal(size=s).astype("f2") for n, s in (("a", (2, 3)), ("b", 4))}
    save_file(tensors, path, {"format": "pt"})
    return path.read_bytes()


def test_a_file_cut_at_any_byte_is_an_error(tmp_path):
    path = tmp_path / "x.safetensors"
    whole = tiny(path)
    assert read_file(path).keys() == {"a", "b"}
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert "not a readable safetensors file" in failure(path, read_file), size
    path.write_bytes(whole + b"\0")
    assert "not a readable safetensors file" in failure(path, read_file)


def test_a_damaged_header_is_an_error_or_reads_as_far_as_it_says(tmp_path):
    path = tmp_path / "x.safetensors"
    whole = tiny(path)
    for place in range(len(whole) - 20):
        for bit in (0x01, 0x20, 0x80):
            damaged = bytearray(whole)
            damaged[place] ^= bit
            path.write_bytes(damaged)
            try:
                for entry in read_file(path).values():
                    entry.read()
            except CheckpointError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"<!DOCTYPE html><html><body>Log in to download</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4265380512\n",
        b"\xff" * 100,
    ],
    ids=["empty", "zeros", "web page", "LFS pointer", "ones"],
)
def test_what_is_no_safetensors_file_is_said_to_be_none(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    message = failure(tmp_path / "x.safetensors")
    assert "not a readable safetensors file" in message
    assert message.endswith("download or copy it again")


def test_a_file_without_tensors_is_an_error(tmp_path):
    save_file({}, tmp_path / "x.safetensors")
    assert "no tensors in it" in failure(tmp_path / "x.safetensors")


def test_a_type_that_cannot_be_read_is_named(tmp_path):
    path = hollow(tmp_path / "x.safetensors", {"a": (2, 2)}, "F8_E4M3")
    with pytest.raises(CheckpointError, match=r"x\.safetensors: a has type F8_E4M3; "):
        read_file(path)["a"].read()


def test_every_readable_type_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    kinds = ("f4", "f2", "i8", "i4", "u1")
    tensors = {kind: np.arange(6, dtype=kind).reshape(2, 3) for kind in kinds}
    tensors["none"] = np.zeros((0, 3), "f4")
    save_file(tensors, path)
    for name, entry in read_file(path).items():
        array = np.array(entry.read())
        assert array.dtype == tensors[name].dtype and entry.shape == array.shape
        np.testing.assert_array_equal(array, tensors[name])


@pytest.mark.parametrize("suffix", [".ckpt", ".gguf", ".bin", ""])
def test_kinds_that_cannot_be_read_yet_are_said_so(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"GGUF")
    message = failure(path)
    assert f"unknown kind of weight file {suffix!r}" in message
    assert "readable are .safetensors" in message


@pytest.mark.parametrize("name", ["x.safetensors", "folder", "a/b/c.ckpt", "no/x.sft"])
def test_a_path_that_does_not_exist_is_no_such_file(name, tmp_path):
    assert "no such file" in failure(tmp_path / name)


def test_a_path_too_long_to_exist_is_an_error(tmp_path):
    assert "cannot be read" in failure(tmp_path / ("x" * 300))


def test_a_folder_that_is_no_model_is_an_error(tmp_path):
    message = failure(tmp_path)
    assert "not a diffusers folder" in message and message.endswith("a weight file")
    (tmp_path / "unet").mkdir()
    message = str(pytest.raises(CheckpointError, open_model, tmp_path).value)
    assert message.startswith(f"{tmp_path / 'unet'}: no safetensors weights, such as")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="is root")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path):
    path = hollow(tmp_path / "x.safetensors", {"a": (1,)})
    path.chmod(0)
    assert "ermission denied" in failure(path)


@pytest.fixture
def index(tmp_path):
    """Of three tensors in two shards."""
    for i, names in ((1, "ab"), (2, "c")):
        shard = {name: np.ones(1, "f2") for name in names}
        save_file(shard, tmp_path / f"model-{i}.safetensors")
    weight_map = {n: f"model-{1 + (n == 'c')}.safetensors" for n in "abc"}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    return path


def test_a_missing_shard_is_named(index):
    assert read_file(index).keys() == {"a", "b", "c"}
    shard = index.with_name("model-2.safetensors")
    shard.unlink()
    message = str(pytest.raises(CheckpointError, read_file, index).value)
    assert message.startswith(str(shard)) and "No such file" in message


def test_a_tensor_missing_from_its_shard_is_named(index):
    save_file({"d": np.ones(1, "f2")}, index.with_name("model-2.safetensors"))
    assert ": c is not in model-2.safetensors" in failure(index, read_file)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": [1]}}', "\0", "é"],
)
def test_a_malformed_index_is_an_error(text, index):
    index.write_text(text, "latin-1")
    assert "not a readable safetensors index" in failure(index, read_file)


def test_damage_is_found_before_any_weight_is_read(tmp_path):
    shapes = seeded.sd1_shapes()
    del shapes[CONV]
    path = hollow(tmp_path / "x.safetensors", shapes, "F32")
    start = time.process_time()
    assert "1 of the unet's 686 weights are missing" in failure(path)
    assert time.process_time() - start < 1
    assert open_source(path).contents.parts["unet"]
