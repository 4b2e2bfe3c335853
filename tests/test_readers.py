"""Broken and foreign files: one line that names the file, the tensor, what next."""

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
import seeded
from checkpoints import hollow
from refusal import failure
from safetensors.numpy import save_file

from mlx_sd import CheckpointError
from mlx_sd.convert.detect import identify
from mlx_sd.convert.dtypes import DTYPES
from mlx_sd.convert.readers import read_file
from mlx_sd.folder import choose_weights
from mlx_sd.opening import open_model

GOLDEN = Path(__file__).parent / "golden"
UNET, TEXT = seeded.UNET, seeded.TEXT


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
        message = failure(path)  # of 8 bytes, all may be a length
        assert size < 9 or "not a readable safetensors file" in message, size
    path.write_bytes(whole + b"\0")
    assert "not a readable safetensors file" in failure(path)


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


FOREIGN = {
    "empty": (b"", "is empty; download or copy it again"),
    "blank": (b" \n", "is empty; download or copy it again"),
    "zeros": (b"\0" * 100, "not a weight file that we can read; readable are safe"),
    "ones": (b"\xff" * 100, "not a weight file that we can read; readable are safe"),
    "text": (b"weights", "and the index.json of a model in several files"),
    "web page": (b"\n<!DOCTYPE html><html>Log in</html>", "a web page, not weights; "),
    "error": (b"<?xml version='1.0'?><Error/>", "maybe after logging in"),
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4265380512\n",
        "a Git LFS pointer, which stands for the file; fetch that: git lfs pull",
    ),
}


@pytest.mark.parametrize("content, reason", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt", "gguf", "index.json"])
def test_what_holds_no_weights_is_said_to_hold_none(content, reason, suffix, tmp_path):
    (tmp_path / f"x.{suffix}").write_bytes(content)
    assert reason in failure(tmp_path / f"x.{suffix}", open_model)


def test_a_file_without_tensors_is_an_error(tmp_path):
    save_file({}, tmp_path / "x.safetensors")
    assert "no tensors in it" in failure(tmp_path / "x.safetensors", open_model)


def test_a_type_that_cannot_be_read_is_named(tmp_path):
    path = hollow(tmp_path / "x.safetensors", {"a": (2, 2)}, "F8_E8M0")
    with pytest.raises(CheckpointError, match=r"x\.safetensors: a has type F8_E8M0; "):
        read_file(path)["a"].read()


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "tensors.npz")


@pytest.mark.parametrize("dtype, values", [("F8_E4M3", "e4m3"), ("F8_E5M2", "e5m2")])
def test_each_code_of_an_8_bit_float_has_torchs_value(dtype, values, golden):
    read = np.array(DTYPES[dtype].decode(np.arange(256, dtype=np.uint8)))
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, golden[values])
    numbers = ~np.isnan(golden[values])
    assert (np.signbit(read) == np.signbit(golden[values]))[numbers].all()


KINDS = {  # file → one of its tensors
    "every_type.safetensors": "torch.int8",
    "pytorch_zip.ckpt": "torch.int8",
    "pytorch_legacy.ckpt": "torch.int8",
    "written.gguf": "bf16",
}


@pytest.mark.parametrize("file, tensor", KINDS.items())
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".gguf", ".json", ""])
def test_what_a_file_is_called_does_not_matter(file, tensor, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes((GOLDEN / file).read_bytes())
    assert tensor in read_file(path)


def written(path: Path, header: bytes, body: bytes = b"") -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    return path


def test_a_name_twice_in_a_header_is_an_error(tmp_path):
    field = b'"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}'
    path = written(tmp_path / "x.safetensors", b"{%b, %b}" % (field, field), b"1")
    assert "a name is in its header twice" in failure(path)


@pytest.mark.parametrize("size", [11 << 20, 1 << 30, 1 << 60, (1 << 64) - 1])
def test_a_header_longer_than_any_is_not_read(size, tmp_path):
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        file.write(size.to_bytes(8, "little") + b'{"a": ')
        file.truncate(2 << 30)
    start = time.process_time()
    assert "its header would have" in failure(path)
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize("name", ["", "a\\nb", "\\u001b[31m", "a" * 1000])
def test_a_name_that_cannot_be_shown_is_an_error(name, tmp_path):
    field = b'{"%b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}'
    path = written(tmp_path / "x.safetensors", field % name.encode(), b"1")
    assert "which is no proper name" in failure(path)


SCALED = {  # the scale's name and shape for a weight of 3 rows and 4 columns
    "older": ("a.scale_weight", ()),
    "newer": ("a.weight_scale", ()),
    "one": ("a.weight_scale", (1,)),
    "rows": ("a.weight_scale", (3,)),
    "column": ("a.weight_scale", (3, 1)),
}


@pytest.mark.parametrize("name, shape", SCALED.values(), ids=SCALED.keys())
@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_a_scaled_weight_is_its_values_times_its_scale(kind, name, shape, tmp_path):
    codes = np.arange(12, dtype=np.uint8).reshape(3, 4) * 9
    scale = np.linspace(0.001, 3, math.prod(shape), dtype="f4").reshape(shape)
    tensors = {
        "a.weight": (kind, codes),
        name: ("F32", scale),
        "a.scale_input": ("F32", np.ones((), "f4")),
        "b.weight": ("F16", np.ones(2, "f2")),
        "scaled_fp8": (kind, np.zeros(2, "u1")),
        "c.scale_weight": ("F32", np.ones((), "f4")),
    }
    entries = read_file(save(tmp_path / "x.safetensors", tensors))
    assert entries.keys() == tensors.keys() - {name}
    assert entries["a.weight"].scale.name == name and entries["b.weight"].scale is None
    golden = np.load(GOLDEN / "tensors.npz")[{"3": "e4m3", "2": "e5m2"}[kind[-1]]]
    per_row = scale.reshape(-1, 1)
    read = np.array(entries["a.weight"].read())
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, golden[codes].astype("f4") * per_row)


@pytest.mark.parametrize(
    "weight, scale",
    [
        (("F8_E4M3", (3, 4)), ("F32", (4,))),
        (("F8_E4M3", (3, 4)), ("F8_E8M0", (3, 1))),
        (("I8", (3, 4)), ("F32", (3, 1))),
        (("U8", (3, 4)), ("F8_E4M3", (3, 4))),
        (("F8_E4M3", ()), ("F32", (2,))),
    ],
    ids=["columns", "mxfp8", "int8", "nvfp4", "no rows"],
)
def test_a_weight_with_a_scale_that_we_do_not_know_is_not_read(weight, scale, tmp_path):
    tensors = {
        name: (kind, np.zeros(shape, "f4" if kind == "F32" else "u1"))
        for name, (kind, shape) in {"a.weight": weight, "a.weight_scale": scale}.items()
    }
    entry = read_file(save(tmp_path / "x.safetensors", tensors))["a.weight"]
    with pytest.raises(CheckpointError, match=r"x\.safetensors: a\.weight"):
        entry.read()


def test_what_stands_beside_scaled_weights_is_accounted_for(tmp_path):
    layer, one = UNET + "time_embed.0", ("F32", np.ones((), "f4"))
    tensors = {
        f"{layer}.weight": ("F8_E4M3", np.zeros((4, 4), "u1")),
        f"{layer}.scale_weight": one,
        f"{layer}.scale_input": one,
        UNET + "scaled_fp8": ("F8_E4M3", np.zeros(2, "u1")),
        TEXT + "encoder.layers.0.mlp.fc1.input_scale": one,
        "scaled_fp8": ("F8_E4M3", np.zeros(0, "u1")),
    }
    contents = identify(read_file(save(tmp_path / "x.safetensors", tensors)))
    assert not contents.unknown and len(contents.ignored) == 4
    (parameter,) = contents.parts["unet"].values()
    assert parameter.entry.scale.name == f"{layer}.scale_weight"


def save(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> Path:
    """A safetensors file with types that NumPy does not have."""
    header, body = {}, b""
    for name, (kind, array) in tensors.items():
        begin, body = len(body), body + array.tobytes()
        offsets = (begin, len(body))
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": offsets}
    return written(path, json.dumps(header).encode(), body)


@pytest.mark.parametrize("name", ["x.safetensors", "folder", "a/b/c.ckpt", "no/x.sft"])
def test_a_path_that_does_not_exist_is_no_such_file(name, tmp_path):
    assert "no such file" in failure(tmp_path / name, open_model)


def test_a_path_too_long_to_exist_is_an_error(tmp_path):
    assert "cannot be read" in failure(tmp_path / ("x" * 300), open_model)


def test_a_folder_that_is_no_model_is_an_error(tmp_path):
    message = failure(tmp_path, open_model)
    assert "not a diffusers folder" in message and message.endswith("a weight file")
    (tmp_path / "unet").mkdir()
    message = str(pytest.raises(CheckpointError, open_model, tmp_path).value)
    assert message.startswith(f"{tmp_path / 'unet'}: no weights, such as")


CHOICES = [  # a folder's files, the best first where nothing speaks for half precision
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp16.bin",
    "pytorch_model.bin.index.fp16.json",
]


def test_safetensors_go_before_checkpoints_that_must_be_unpickled():
    left = [*CHOICES, "model.bin", "training_args.bin", "config.json"]
    for wanted in CHOICES:
        assert choose_weights(left, "x") == wanted
        left.remove(wanted)
    with pytest.raises(CheckpointError, match="x: no weights, such as "):
        choose_weights(left, "x")
    half = choose_weights(CHOICES, "x", prefer_half=True)
    assert half == "model.fp16.safetensors"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="is root")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path):
    path = hollow(tmp_path / "x.safetensors", {"a": (1,)})
    path.chmod(0)
    assert "ermission denied" in failure(path, open_model)


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
    assert message == f"{shard}: no such file"


def test_a_tensor_missing_from_its_shard_is_named(index):
    save_file({"d": np.ones(1, "f2")}, index.with_name("model-2.safetensors"))
    assert ": 'c' is not in model-2.safetensors" in failure(index)


def test_shards_may_be_pytorch_checkpoints(tmp_path):
    names = {"zip": "torch.int8", "legacy": "torch.int16"}
    for kind in names:
        golden = GOLDEN / f"pytorch_{kind}.ckpt"
        (tmp_path / f"model-{kind}.bin").write_bytes(golden.read_bytes())
    path = tmp_path / "model.bin.index.json"
    weight_map = {name: f"model-{kind}.bin" for kind, name in names.items()}
    path.write_text(json.dumps({"weight_map": weight_map}))
    message = failure(path)  # of all the others
    assert "is in model-legacy.bin and in model-zip.bin, and the index" in message
    (tmp_path / "model-zip.bin").unlink()
    weight_map = {"torch.int8": "model-legacy.bin"}
    path.write_text("\n " + json.dumps({"weight_map": weight_map}))
    assert "torch.int16" in read_file(path)


INDEXES = (
    "{",
    "{}",
    '{"weight_map": 1}',
    '{"weight_map": {"a": [1]}}',
    '{"weight_map": {"a": 1}}',
    '{"weight_map": {"a": "../x.safetensors"}}',
    '{"weight_map": {"a": "/etc/passwd"}}',
    '{"weight_map": {"a": ""}}',
    '{"weight_map": {"a": ".."}}',
    '{"weight_map": ' + "[" * 100_000,
    "{é}",
)


@pytest.mark.parametrize("text", INDEXES, ids=range(len(INDEXES)))
def test_a_malformed_index_is_an_error(text, index):
    index.write_text(text, "latin-1")
    assert "not a readable index of a model in several files" in failure(index)


def test_an_index_names_files_with_tensors_and_not_indexes(index):
    index.write_text(json.dumps({"weight_map": {"a": index.name}}))
    assert "not a weight file that we can read" in failure(index)
