"""Tiny autoencoders against diffusers and the real weights, under all their names."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import parity
import pytest
import tiny
from names import VAE as VAE_PREFIX
from names import described, rows
from safetensors.numpy import save_file

from mlx_sd import CheckpointError
from mlx_sd.build import build, config, outline
from mlx_sd.convert.detect import Contents, as_part, combined, identify
from mlx_sd.convert.readers import read_file
from mlx_sd.convert.rules import outgoing

GOLDEN = np.load(Path(__file__).parent / "golden/taesd.npz")
REAL = Path(__file__).parents[2] / "shared" / "real-weights"
BOUNDS = {mx.float32: 1e-4, mx.float16: 1e-2}  # relative; float16 rounds at 5e-4
TOGETHER = [layout for layout in tiny.LAYOUTS if layout != "a file by itself"]


def saved(folder: Path, kind: str, layout: str, *coders: str) -> Contents:
    path = folder / f"{kind}{''.join(coders)}.safetensors"
    save_file(tiny.weights(kind, layout, *coders), path)
    return as_part(read_file(path), "tae")


def model(contents: Contents, dtype: mx.Dtype = mx.float32):
    return build("tae", contents.parts["tae"], dtype)


@pytest.mark.parametrize("dtype", BOUNDS, ids=["f32", "f16"])
@pytest.mark.parametrize("kind", tiny.NAMES)
def test_both_ways_match_the_reference(kind, dtype, tmp_path):
    tae = model(saved(tmp_path, kind, "authors"), dtype)
    for run, given, expected in (
        (tae.encode, "image", "encoded"),
        (tae.decode, "latent", "picture"),
    ):
        out = run(parity.nhwc(GOLDEN[f"{kind}_{given}"]).astype(dtype))
        assert out.dtype == dtype
        assert (
            parity.error(parity.nchw(out), GOLDEN[f"{kind}_{expected}"]) < BOUNDS[dtype]
        )


@pytest.mark.skipif(not REAL.exists(), reason="no real weights here")
@pytest.mark.parametrize(
    "first, second", [("encoder", "decoder"), ("decoder", "encoder")]
)
def test_real_weights_match_their_reference(first, second):
    one, other = (
        as_part(read_file(REAL / f"taef2_{coder}.pth"), "tae")
        for coder in (first, second)
    )
    tae = model(combined(one, other))
    golden = np.load(REAL / "taef2_reference.npz")
    encoded = tae.encode(2 * mx.array(golden["image"])[None] - 1)
    decoded = (tae.decode(mx.array(golden["latent"])[None]) + 1) / 2
    assert np.abs(np.array(encoded[0]) - golden["latent"]).max() < 1e-3
    assert np.abs(np.array(decoded[0]) - golden["decoded"]).max() < 1e-3


@pytest.mark.parametrize("layout", TOGETHER)
@pytest.mark.parametrize("kind", tiny.NAMES)
def test_every_layout_is_known_and_complete(kind, layout):
    found = identify(described(tiny.shapes(kind, layout)))
    assert found.parts.keys() == {"tae"} and not found.unknown and not found.ignored
    parameters = found.parts["tae"]
    outline("tae", parameters)  # every parameter is there and fits
    by_authors = identify(described(tiny.shapes(kind, "authors"))).parts["tae"]
    expected = {
        tiny.name(key, "authors"): tiny.name(key, layout)
        for key in tiny.keys(kind).values()
    }
    assert {ours: p.entry.name for ours, p in parameters.items()} == {
        ours: expected[p.entry.name] for ours, p in by_authors.items()
    }


@pytest.mark.parametrize(
    "kind, latent_channels, pool",
    [("TAESD", 4, None), ("TAEF1", 16, None), ("TAEF2", 32, 256)],
)
def test_the_configuration_comes_from_shapes(kind, latent_channels, pool):
    found = config(
        "tae", identify(described(tiny.shapes(kind, "authors"))).parts["tae"]
    )
    assert (found.channels, found.latent_channels) == (3, latent_channels)
    assert found.encoder == found.decoder
    assert (found.decoder.width, found.decoder.pool_width) == (64, pool)


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
@pytest.mark.parametrize("kind", ["TAESD", "TAEF2"])
def test_encoder_and_decoder_can_be_files_of_their_own(kind, layout, tmp_path):
    encoder = saved(tmp_path, kind, layout, "encoder")
    decoder = saved(tmp_path, kind, layout, "decoder")
    assert config("tae", encoder.parts["tae"]).decoder is None
    alone = config("tae", decoder.parts["tae"])
    assert alone.encoder is None
    both = combined(combined(Contents.empty(), encoder), decoder)
    whole = identify(described(tiny.shapes(kind, "authors")))
    assert both.parts["tae"].keys() == whole.parts["tae"].keys()
    latent = parity.nhwc(GOLDEN[f"{kind}_latent"])
    expected = model(both).decode(latent)
    assert parity.error(parity.nchw(expected), GOLDEN[f"{kind}_picture"]) < 1e-4
    assert mx.array_equal(model(decoder).decode(latent), expected)


def test_another_whole_one_takes_the_place_of_both_halves(tmp_path):
    first = saved(tmp_path, "TAESD", "authors")
    other = saved(tmp_path, "TAEF1", "diffusers", "decoder")
    assert combined(first, other).parts["tae"] == other.parts["tae"]


def test_halves_of_two_kinds_do_not_fit(tmp_path):
    first = saved(tmp_path, "TAESD", "authors", "encoder")
    both = combined(first, saved(tmp_path, "TAEF1", "authors", "decoder"))
    with pytest.raises(CheckpointError, match=r"1\.weight has shape \[64, 16, 3, 3\]"):
        model(both)


def test_a_tiny_autoencoder_may_stand_in_the_place_of_a_vae_but_not_the_reverse():
    shapes = tiny.shapes("TAESD", "diffusers")
    assert as_part(described(shapes), "vae").parts.keys() == {"tae"}
    vae = {row[0]: tuple(row[1]) for row in rows("SD 1.x")["vae"]}
    assert as_part(described(vae), "vae").parts.keys() == {"vae"}
    with pytest.raises(CheckpointError, match="no tae in it"):
        as_part(described(vae), "tae")


def test_a_vae_beside_it_comes_first_where_a_vae_is_asked_for():
    prefix = VAE_PREFIX["vae"]
    vae = {prefix + row[0]: tuple(row[1]) for row in rows("SD 1.x")["vae"]}
    both = vae | tiny.shapes("TAESD", "stable-diffusion.cpp")
    assert identify(described(both)).parts.keys() == {"vae", "tae"}
    assert as_part(described(both), "vae").parts.keys() == {"vae"}
    assert as_part(described(both), "tae").parts.keys() == {"tae"}


def test_the_scales_that_comfyui_keeps_beside_it_are_ignored():
    shapes = {**tiny.shapes("TAESD", "ComfyUI"), "vae_scale": (), "vae_shift": ()}
    found = as_part(described(shapes), "tae")
    assert found.ignored.keys() == {"vae_scale", "vae_shift"} and not found.unknown


@pytest.mark.parametrize(
    "layout, gone",
    [
        ("authors", "decoder.7.weight"),
        ("diffusers", "decoder.layers.6.weight"),
        ("a file by itself", "7.weight"),
    ],
)
def test_a_missing_weight_is_named_as_in_the_file(layout, gone):
    shapes = tiny.shapes("TAESD", layout, "decoder")
    del shapes[gone]
    with pytest.raises(CheckpointError, match=f"1 of the tae's .* first {gone}"):
        outline("tae", as_part(described(shapes), "tae").parts["tae"])


@pytest.mark.parametrize("scheme, prefix", [("ldm", "tae."), ("diffusers", "")])
@pytest.mark.parametrize("kind", tiny.NAMES)
def test_what_goes_out_has_the_names_and_values_of_diffusers(
    kind, scheme, prefix, tmp_path
):
    parameters = saved(tmp_path, kind, "authors").parts["tae"]
    expected = tiny.weights(kind, "diffusers")
    for tensor in outgoing("tae", scheme, parameters):
        array = tensor.layout.theirs(*(parameters[n].read() for n in tensor.sources))
        name = tensor.name.removeprefix(prefix)
        np.testing.assert_array_equal(np.array(array), expected.pop(name), err_msg=name)
    assert not expected
