"""From files to weights: every layout gives the same, and nothing goes unsaid."""

import json
import logging
import time

import checkpoints
import mlx.core as mx
import names
import numpy as np
import pytest
import seeded
from click.testing import CliRunner
from digest import digests
from process import python
from safetensors.numpy import save_file

from mlx_sd import CheckpointError
from mlx_sd.cli import main
from mlx_sd.defaults import defaults
from mlx_sd.opening import open_model, open_source
from mlx_sd.tokenizers import ClipTokenizer

UNET, VAE, TEXT = seeded.UNET, seeded.VAE, seeded.TEXT


@pytest.fixture
def folder(tmp_path, arrays):
    return checkpoints.write_folder(tmp_path / "model", arrays)


def test_a_weight_is_the_files_numbers_with_the_channels_last(small, arrays):
    unet = open_model(small).build("unet", mx.float32)
    theirs = arrays[UNET + "input_blocks.0.0.weight"]
    ours = unet.conv_in.weight
    assert ours.dtype == mx.float32
    np.testing.assert_array_equal(np.array(ours), theirs.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_every_float_type_gives_the_same_weights(dtype, tmp_path, expected):
    seeded.save(tmp_path / "x.safetensors", seeded.small_shapes(), dtype)
    assert digests(open_model(tmp_path / "x.safetensors")) == expected


def test_training_leftovers_are_ignored_in_silence(tmp_path, caplog):
    shapes, buffers = seeded.small_shapes(), seeded.extra_buffers()
    buffers[VAE + "model_ema.decay"] = np.zeros(1, np.float32)
    buffers[VAE + "loss.logvar"] = np.zeros(1, np.float32)
    seeded.save(tmp_path / "x.safetensors", shapes, buffers=buffers)
    contents = open_model(tmp_path / "x.safetensors").contents
    assert contents.ignored.keys() | {"alphas_cumprod"} == buffers.keys()
    assert contents.markers.keys() == {"alphas_cumprod"}
    assert not contents.unknown and not caplog.records


def test_an_unknown_tensor_is_warned_of_by_name(tmp_path, caplog):
    shapes = {**seeded.small_shapes(), "lora.zero_convs.0.0.weight": (1,)}
    path = checkpoints.hollow(tmp_path / "x.safetensors", shapes)
    with caplog.at_level(logging.WARNING):
        open_model(path)
    (message,) = caplog.messages
    assert str(path) in message and "lora.zero_convs.0.0.weight" in message


def test_text_encoders_without_their_root_load_alike(tmp_path, arrays, expected):
    root = "cond_stage_model.transformer."
    renamed = {n.replace(TEXT, root): array for n, array in arrays.items()}
    assert f"{root}embeddings.token_embedding.weight" in renamed
    save_file(renamed, tmp_path / "x.safetensors", {"format": "pt", "note": "merge"})
    assert digests(open_model(tmp_path / "x.safetensors")) == expected


@pytest.mark.parametrize("kind", ["plain", "fp16", "shards", "fp16 shards"])
def test_a_diffusers_folder_loads_as_the_single_file(kind, tmp_path, arrays, expected):
    folder = checkpoints.write_folder(tmp_path / "model", arrays, kind)
    source = open_model(folder)
    assert digests(source) == expected
    assert not source.contents.unknown


def test_a_folder_prefers_the_unabridged_weights(folder):
    half = folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    half.write_bytes(b"not to be opened")
    open_model(folder)


def test_tensors_that_an_index_forgets_are_still_accounted_for(tmp_path, arrays):
    folder = checkpoints.write_folder(tmp_path / "model", arrays, "shards")
    shard = folder / "vae/diffusion_pytorch_model-00002-of-00002.safetensors"
    kept = dict(list(checkpoints.in_diffusers("vae", arrays).items())[1::2])
    save_file({**kept, "stray": np.zeros(1, np.float16)}, shard)
    assert open_model(folder).contents.unknown.keys() == {"vae/stray"}


@pytest.mark.parametrize("kind", names.KINDS)
def test_folders_of_every_family_are_understood(kind, tmp_path):
    for part, shapes in names.diffusers(kind).items():
        folder = tmp_path / names.FOLDERS[part]
        folder.mkdir()
        stem = "model" if part.startswith("clip") else "diffusion_pytorch_model"
        checkpoints.hollow(folder / f"{stem}.safetensors", shapes)
    source = open_source(tmp_path)
    assert source.kind.name == kind and not source.contents.unknown
    assert source.contents.parts.keys() == set(source.kind.parts)


@pytest.mark.parametrize("kind", names.KINDS)
def test_models_of_every_family_are_opened_as_single_files(kind, tmp_path):
    path = checkpoints.hollow(tmp_path / "x.safetensors", names.ldm(kind))
    assert open_model(path).kind.name == kind


def test_a_vocabulary_of_its_own_needs_the_folders_tokenizer(folder, small):
    with pytest.raises(CheckpointError, match="tokenizer: no tokenizer here"):
        _ = open_source(folder).tokenizer
    with pytest.raises(CheckpointError, match="a single file brings no tokenizer"):
        _ = open_source(small).tokenizer
    checkpoints.write_tokenizer(folder, 1000)
    assert open_source(folder).tokenizer.vocab_size == 1000


def test_a_tokenizer_of_another_size_is_an_error(folder):
    checkpoints.write_tokenizer(folder, 999)
    with pytest.raises(CheckpointError, match="has 999 tokens, the text encoder 1000"):
        _ = open_source(folder).tokenizer


def test_clips_own_vocabulary_needs_no_tokenizer_files(tmp_path):
    shapes = seeded.small_shapes()
    shapes[TEXT + "embeddings.token_embedding.weight"] = (49408, 128)
    path = checkpoints.hollow(tmp_path / "x.safetensors", shapes)
    assert open_model(path).tokenizer is ClipTokenizer.standard()


def test_the_folder_knows_the_models_own_picture_size(folder, small):
    assert defaults(open_model(folder)).size == 512
    assert defaults(open_model(small)).size == 512
    (folder / "unet/config.json").write_text(json.dumps({"sample_size": 32}))
    assert defaults(open_model(folder)).size == 256
    (folder / "unet/config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not readable as JSON"):
        defaults(open_model(folder))


MEASURE = """
import sys, time
import mlx.core as mx
from process import peak
from mlx.utils import tree_flatten
from mlx_sd.opening import open_source

before, start = peak(), time.process_time()
source = open_source(sys.argv[1])
opening = time.process_time() - start
size = 0
if len(sys.argv) > 2:
    unet = source.build("unet", getattr(mx, sys.argv[2]))
    size = sum(array.nbytes for _, array in tree_flatten(unet.parameters()))
print(opening, peak() - before, size)
"""


def measure(*arguments) -> list[float]:
    """CPU seconds to open, bytes by which memory peaked, bytes of weights built."""
    return [float(number) for number in python("-c", MEASURE, *arguments).split()]


def test_opening_reads_the_header_alone(tmp_path):
    shapes = {**seeded.sd1_shapes(), "model_ema.huge": (1 << 31,)}
    path = checkpoints.hollow(tmp_path / "x.safetensors", shapes, "F32")
    assert path.stat().st_size > 12e9
    seconds, memory, _ = measure(path)
    assert seconds < 0.5 and memory < 50e6


def test_sdxl_opens_at_once(tmp_path):
    path = checkpoints.hollow(tmp_path / "x.safetensors", names.ldm("SDXL"))
    assert path.stat().st_size > 6.9e9
    seconds, memory, _ = measure(path)
    assert seconds < 0.3 and memory < 50e6


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_loading_peaks_within_a_fifth_of_the_weights(dtype, full_checkpoint):
    _, memory, size = measure(full_checkpoint(), dtype)
    assert size > 1.7e9 and memory <= 1.2 * size


def test_building_a_part_twice_gives_models_of_their_own(small):
    source = open_model(small)
    first, second = (
        source.build("clip_l", mx.float32),
        source.build("clip_l", mx.float16),
    )
    assert first.token.weight.dtype == mx.float32
    assert second.token.weight.dtype == mx.float16


def test_a_file_that_shrinks_after_opening_is_an_error(tmp_path):
    path = checkpoints.hollow(tmp_path / "x.safetensors", seeded.small_shapes())
    source = open_model(path)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="has the file changed"):
        digests(source)


def test_a_broken_model_is_one_line_and_exit_code_1(tmp_path):
    shapes = seeded.small_shapes()
    del shapes[UNET + "out.0.bias"]
    path = checkpoints.hollow(tmp_path / "x.safetensors", shapes)
    start = time.process_time()
    result = CliRunner().invoke(main, ["generate", "-p", "a house", "-m", str(path)])
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {path}: 1 of the unet's 496 weights are missing")
    assert time.process_time() - start < 10
