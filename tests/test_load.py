"""From files to weights: every layout gives the same, and nothing goes unsaid."""

import hashlib
import json
import logging
import subprocess
import sys
import time

import checkpoints
import mlx.core as mx
import names
import numpy as np
import pytest
import seeded
from click.testing import CliRunner
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from mlx_sd import CheckpointError
from mlx_sd.cli import main
from mlx_sd.load import Source, open_model, open_source
from mlx_sd.tokenizers import ClipTokenizer

UNET, VAE, TEXT = seeded.UNET, seeded.VAE, seeded.TEXT


def digests(source: Source, parts=("unet", "vae", "clip_l")) -> dict[str, str]:
    """Our name of each weight → a hash of its float32 values and shape."""
    found = {}
    for part in parts:
        for name, array in tree_flatten(source.build(part, mx.float32).parameters()):
            data = np.array(array)
            found[f"{part}.{name}"] = f"{data.shape} {hashlib.md5(data).hexdigest()}"
    return found


@pytest.fixture(scope="module")
def arrays():
    return seeded.weights(seeded.small_shapes(), np.float16)


@pytest.fixture(scope="module")
def small(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    save_file(arrays, path)
    return path


@pytest.fixture(scope="module")
def expected(small):
    return digests(open_model(small))


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


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_names(tensors, axes):
    """The VAE's attention as diffusers wrote it before 0.15."""
    found = {}
    for name, array in tensors.items():
        for new, old in OLD_NAMES.items():
            if f"attentions.0.{new}." in name:
                name = name.replace(new, old)
                if name.endswith("weight") and axes == 4:
                    array = array[..., None, None]
        found[name] = array
    assert sum(".query." in name for name in found) == 4
    return found


def vae_bare(arrays):
    buffers = {f"{VAE}loss.logvar": np.zeros(1), f"{VAE}model_ema.decay": np.zeros(1)}
    return {n.removeprefix(VAE): array for n, array in {**arrays, **buffers}.items()}


VAES = {
    "as in a checkpoint": lambda vae: vae,
    "without a prefix": vae_bare,
    "diffusers": lambda vae: checkpoints.in_diffusers("vae", vae),
    "old diffusers": lambda vae: old_names(checkpoints.in_diffusers("vae", vae), 2),
    "old convolutions": lambda vae: old_names(checkpoints.in_diffusers("vae", vae), 4),
    "a whole model": lambda vae: {
        **vae,
        **{
            n: np.zeros(s, "f2")
            for n, s in seeded.small_shapes().items()
            if n not in vae
        },
    },
}


@pytest.fixture(scope="module")
def other_vae(arrays):
    return {name: 2 * array for name, array in arrays.items() if name.startswith(VAE)}


@pytest.fixture(scope="module")
def expected_with_other_vae(tmp_path_factory, arrays, other_vae, expected):
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    save_file({**arrays, **other_vae}, path)
    found = {**expected, **digests(open_model(path), ["vae"])}
    assert found != expected
    return found


@pytest.mark.parametrize("form", VAES.values(), ids=VAES.keys())
def test_another_vae_replaces_the_models(
    form, tmp_path, small, other_vae, expected_with_other_vae, caplog
):
    save_file(form(other_vae), tmp_path / "vae.safetensors")
    source = open_model(small, vae=tmp_path / "vae.safetensors")
    assert digests(source) == expected_with_other_vae
    assert not source.contents.unknown and not caplog.records


def test_a_vae_folder_replaces_the_models(
    tmp_path, small, other_vae, expected_with_other_vae
):
    checkpoints.write_part(tmp_path, "vae", other_vae)
    source = open_model(small, vae=tmp_path / "vae")
    assert digests(source) == expected_with_other_vae


def test_a_given_vae_completes_a_model_without_one(tmp_path, arrays, other_vae):
    rest = {n: array for n, array in arrays.items() if not n.startswith(VAE)}
    save_file(rest, tmp_path / "rest.safetensors")
    with pytest.raises(CheckpointError, match="holds no vae; give one with --vae"):
        open_model(tmp_path / "rest.safetensors")
    save_file(other_vae, tmp_path / "vae.safetensors")
    open_model(tmp_path / "rest.safetensors", vae=tmp_path / "vae.safetensors")


def test_a_vae_option_without_a_vae_is_an_error(tmp_path, small):
    text = {n: s for n, s in seeded.small_shapes().items() if n.startswith(TEXT)}
    path = checkpoints.hollow(tmp_path / "text.safetensors", text)
    with pytest.raises(CheckpointError, match=r"text\.safetensors: no vae in it"):
        open_model(small, vae=path)


def in_one_part(part, arrays):
    """A part's tensors, by their names in a file of that part alone."""
    prefix = {"unet": UNET, "vae": VAE, "clip_l": TEXT}[part]
    return {n[len(prefix) :]: a for n, a in arrays.items() if n.startswith(prefix)}


def in_folder(part, arrays):
    return checkpoints.in_diffusers(part, arrays)


OPTIONS = {"diffusion_model": "unet", "clip_l": "clip_l", "vae": "vae"}


@pytest.mark.parametrize("form", [in_one_part, in_folder], ids=["bare", "diffusers"])
def test_parts_in_files_of_their_own_make_a_model(form, tmp_path, arrays, expected):
    for part in OPTIONS.values():
        save_file(form(part, arrays), tmp_path / f"{part}.safetensors")
    files = {opt: tmp_path / f"{part}.safetensors" for opt, part in OPTIONS.items()}
    source = open_model(**files)
    assert digests(source) == expected
    assert (source.path, source.name) == (files["diffusion_model"], "unet")
    assert not source.contents.unknown


def test_parts_may_be_of_different_formats(tmp_path, small, arrays, expected):
    checkpoints.write_part(tmp_path, "clip_l", arrays, "shards")
    unet = {n.replace(UNET, "unet."): a for n, a in arrays.items() if UNET in n}
    save_file(unet, tmp_path / "unet.safetensors")
    source = open_model(
        diffusion_model=tmp_path / "unet.safetensors",
        clip_l=tmp_path / "text_encoder",
        vae=small,  # a whole model, of which its VAE is taken
    )
    assert digests(source) == expected


@pytest.mark.parametrize("option, part", OPTIONS.items())
def test_a_part_of_its_own_replaces_the_models(
    option, part, tmp_path, small, arrays, expected
):
    other = {name: 2 * array for name, array in in_one_part(part, arrays).items()}
    save_file(other, tmp_path / "part.safetensors")
    found = digests(open_model(small, **{option: tmp_path / "part.safetensors"}))
    changed = {name for name in expected if found[name] != expected[name]}
    assert changed == {name for name in expected if name.startswith(f"{part}.")}


@pytest.mark.parametrize("option, part", OPTIONS.items())
def test_a_missing_part_is_an_error_that_names_its_option(
    option, part, tmp_path, arrays
):
    for name in OPTIONS.values():
        save_file(in_one_part(name, arrays), tmp_path / f"{name}.safetensors")
    files = {
        o: tmp_path / f"{p}.safetensors" for o, p in OPTIONS.items() if o != option
    }
    flag = "--diffusion-model" if part == "unet" else f"--{option}"
    with pytest.raises(CheckpointError, match=f"holds no .*; give one with {flag};"):
        open_model(**files)


@pytest.mark.parametrize("option", ["diffusion_model", "clip_l", "clip_g"])
def test_a_file_without_the_part_it_is_given_for_is_an_error(
    option, tmp_path, small, arrays
):
    save_file(in_one_part("vae", arrays), tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=r"vae\.safetensors: no \w+ in it"):
        open_model(small, **{option: tmp_path / "vae.safetensors"})


def test_another_first_text_encoder_leaves_none_of_the_models_own(tmp_path, small):
    shapes = names.diffusers("SD 2.x")["clip_h"]
    path = checkpoints.hollow(tmp_path / "text.safetensors", shapes)
    assert open_source(small, clip_l=path).contents.parts.keys() == {
        *("unet", "vae", "clip_h")
    }
    with pytest.raises(
        CheckpointError, match="holds no clip_l; give one with --clip_l"
    ):
        open_model(small, clip_l=path)


def test_sdxl_is_put_together_of_four_files(tmp_path):
    files = {}
    for option, part in {**OPTIONS, "clip_g": "clip_g"}.items():
        shapes = names.diffusers("SDXL")[part]
        files[option] = checkpoints.hollow(tmp_path / f"{part}.safetensors", shapes)
    source = open_source(**files)
    assert source.kind.name == "SDXL" and not source.contents.unknown
    assert set(source.kind.parts) == source.contents.parts.keys()
    del files["clip_g"]
    assert "clip_g" not in open_source(**files).contents.parts


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


@pytest.mark.parametrize("kind", [kind for kind in names.KINDS if kind != "SD 1.x"])
def test_a_family_that_does_not_run_yet_is_an_error_of_one_line(kind, tmp_path):
    path = checkpoints.hollow(tmp_path / "x.safetensors", names.ldm(kind))
    with pytest.raises(CheckpointError) as caught:
        open_model(path)
    assert str(caught.value) == (
        f"{path}: {kind} models do not run yet; SD 1.x ones do; "
        f"see what it holds with: mlx-sd inspect {path}"
    )


def test_marks_are_those_of_the_unets_file(tmp_path, arrays, small):
    shapes = {name: a.shape for name, a in in_one_part("unet", arrays).items()}
    marked = {**shapes, "v_pred": ()}
    unet = checkpoints.hollow(tmp_path / "unet.safetensors", marked)
    assert open_source(small, diffusion_model=unet).contents.markers.keys() == {
        "v_pred"
    }
    vae = checkpoints.hollow(
        tmp_path / "vae.safetensors", {**names.ldm("SD 1.x"), "v_pred": ()}
    )
    assert not open_source(small, vae=vae).contents.markers


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
    assert open_model(folder).size() == open_model(small).size() == 512
    (folder / "unet/config.json").write_text(json.dumps({"sample_size": 32}))
    assert open_model(folder).size() == 256
    (folder / "unet/config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not readable as JSON"):
        open_model(folder).size()


MEASURE = """
import resource, sys, time
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_sd.load import open_source

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

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
    command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


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
    start = time.monotonic()
    result = CliRunner().invoke(main, ["generate", "-p", "a house", "-m", str(path)])
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {path}: 1 of the unet's 496 weights are missing")
    assert time.monotonic() - start < 10


def test_a_model_that_predicts_something_else_is_refused(folder):
    (folder / "scheduler").mkdir()
    settings = folder / "scheduler/scheduler_config.json"
    settings.write_text(json.dumps({"prediction_type": "v_prediction"}))
    with pytest.raises(CheckpointError, match="predicts 'v_prediction'"):
        open_model(folder)
    settings.write_text(json.dumps({"prediction_type": "epsilon"}))
    open_model(folder)


@pytest.mark.parametrize("marker", ["v_pred", "edm_vpred.sigma_max"])
def test_a_mark_of_another_prediction_is_heeded(marker, tmp_path):
    shapes = {**seeded.small_shapes(), marker: ()}
    path = checkpoints.hollow(tmp_path / "x.safetensors", shapes)
    with pytest.raises(
        CheckpointError, match=f"'v_prediction', says its tensor {marker}"
    ):
        open_model(path)
