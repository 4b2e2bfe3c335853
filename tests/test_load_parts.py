"""Models put together of parts in files of their own, of any format."""

import checkpoints
import names
import numpy as np
import pytest
import seeded
from digest import digests
from safetensors.numpy import save_file

from mlx_sd import CheckpointError
from mlx_sd.opening import open_model, open_source

UNET, VAE, TEXT = seeded.UNET, seeded.VAE, seeded.TEXT
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
