"""Tiny autoencoders at work: in a VAE's place, or for previews alone."""

import shutil

import checkpoints
import mlx.core as mx
import numpy as np
import parity
import pytest
import tiny
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import save_file
from test_codec import GOLDEN as VAE_GOLDEN
from test_codec import SCALE, VAE
from test_taesd import GOLDEN, REAL

from mlx_sd import CheckpointError, ConfigError, Request, load
from mlx_sd.cli import main
from mlx_sd.opening import open_model, open_source

REQUEST = Request("a", width=64, height=64, seed=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """TAESD in a file of both halves, and in one of each; and a TAEF1."""
    folder = tmp_path_factory.mktemp("tiny")
    save_file(tiny.weights("TAESD", "diffusers"), folder / "taesd.safetensors")
    save_file(tiny.weights("TAEF1", "diffusers"), folder / "taef1.safetensors")
    for half in ("encoder", "decoder"):
        weights = tiny.weights("TAESD", "a file by itself", half)
        save_file(weights, folder / f"taesd_{half}.safetensors")
    return folder


def decoded(codec) -> float:
    """Its distance from diffusers' AutoencoderTiny, relative."""
    picture = codec.decode(parity.nhwc(GOLDEN["TAESD_latent"]))
    return parity.error(parity.nchw(picture), GOLDEN["TAESD_picture"])


def never() -> mx.array:
    raise AssertionError("its latents are exact")


@pytest.mark.parametrize("name", ["taesd", "taesd_encoder", "taesd_decoder"])
def test_it_takes_the_place_of_the_vae(small, files, name):
    pipeline = load(small, taesd=files / f"{name}.safetensors", dtype="f32")
    assert decoded(pipeline.codec) < 1e-4 and pipeline.tiny is pipeline.codec
    image = parity.nhwc(GOLDEN["TAESD_image"])
    latent = pipeline.codec.encode(image, never)
    assert parity.error(parity.nchw(latent), GOLDEN["TAESD_encoded"]) < 1e-4
    bare = pipeline.codec.encode(image, never, scaled=False)
    assert parity.error(bare, latent / SCALE) < 1e-6
    assert f"TAESD: {name}.safetensors" in pipeline.parameters(REQUEST)


def test_for_previews_alone_it_leaves_the_vae_its_place(small, files):
    path = files / "taesd.safetensors"
    pipeline = load(small, taesd=path, taesd_preview_only=True, dtype="f32")
    assert decoded(pipeline.tiny) < 1e-4
    picture = pipeline.codec.decode(parity.nhwc(SCALE * VAE_GOLDEN["latent"]))
    assert parity.error(parity.nchw(picture), VAE_GOLDEN["picture"]) < 1e-4
    assert "TAESD" not in pipeline.parameters(REQUEST)
    with pytest.raises(CheckpointError, match="holds no tae .* give one with --taesd"):
        load(small, taesd_preview_only=True)


def test_a_model_may_have_no_vae_then(tmp_path, arrays, files):
    rest = {n: array for n, array in arrays.items() if not n.startswith(VAE)}
    path = tmp_path / "rest.safetensors"
    save_file(rest, path)
    tae = files / "taesd.safetensors"
    assert open_model(path, taesd=tae).codec == "tae"
    assert open_model(path, vae=tae).codec == "tae"  # as SDXS's files have it
    with pytest.raises(
        CheckpointError, match="holds no vae beside what is for previews; give"
    ):
        open_model(path, taesd=tae, taesd_preview_only=True)


def test_a_models_folder_may_have_one_as_its_vae(tmp_path, arrays, files, small):
    folder = checkpoints.write_folder(tmp_path / "model", arrays)
    shutil.rmtree(folder / "vae")
    (folder / "vae").mkdir()
    name = "diffusion_pytorch_model.safetensors"
    shutil.copy(files / "taesd.safetensors", folder / "vae" / name)
    assert decoded(load(folder, dtype="f32").codec) < 1e-4
    assert open_model(folder, vae=small).codec == "vae"  # another takes its place


@pytest.mark.parametrize("alone", [True, False])
def test_one_that_does_not_fit_is_an_error_in_one_line(small, files, alone):
    with pytest.raises(CheckpointError) as caught:
        load(small, taesd=files / "taef1.safetensors", taesd_preview_only=alone)
    message = str(caught.value)
    assert "taef1.safetensors: a TAESD3 or TAEF1 with 16 latent channels" in message
    assert "has 4; give another with --taesd" in message and "\n" not in message


def test_an_encoder_cannot_decode_nor_a_decoder_encode(small, files, tmp_path):
    for half in ("encoder", "decoder"):
        shutil.copy(files / f"taesd_{half}.safetensors", tmp_path / f"{half[:2]}.st")
    with pytest.raises(CheckpointError, match="en.st: holds no decoder"):
        load(small, taesd=tmp_path / "en.st")
    pipeline = load(small, taesd=tmp_path / "de.st", dtype="f32")
    assert decoded(pipeline.codec) < 1e-4
    with pytest.raises(ConfigError, match="de.st: holds no encoder"):
        pipeline.codec.encode(mx.zeros((1, 64, 64, 3)), None)


@pytest.mark.skipif(not REAL.exists(), reason="no real weights here")
def test_real_halves_find_each_other():
    source = open_source(taesd=REAL / "taef2_decoder.pth")
    tae = source.build("tae", mx.float32)
    golden = np.load(REAL / "taef2_reference.npz")
    encoded = tae.encode(2 * mx.array(golden["image"])[None] - 1)
    decoded = (tae.decode(mx.array(golden["latent"])[None]) + 1) / 2
    assert np.abs(np.array(encoded[0]) - golden["latent"]).max() < 1e-3
    assert np.abs(np.array(decoded[0]) - golden["decoded"]).max() < 1e-3
    described = CliRunner().invoke(main, ["inspect", str(REAL / "taef2_encoder.pth")])
    assert "tae: TAEF2, " in described.output


def painted(path, *args):
    """In float32, as tiles round otherwise in the 16 bits of a GPU."""
    small = "--steps 2 -W 64 -H 64 --dtype f32".split()
    given = ("-p", "a red house", *small, "-o", path, *args)
    done = CliRunner().invoke(main, ["generate", *map(str, given)])
    assert done.exit_code == 0, done.output
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_from_the_command_line(tmp_path, files):
    tae = ("--tae", files / "taesd_decoder.safetensors")
    shown = ("--preview", "tae", "--preview-path", tmp_path / "p.png")
    plain = painted(tmp_path / "a.png", "--vae-tiling", "--vae-tile-size", "4")
    kept = painted(tmp_path / "b.png", *tae, *shown, "--taesd-preview-only")
    assert np.abs(plain.astype(int) - kept).max() <= 1  # tiled, and not
    tiny_, tiled = (
        painted(tmp_path / "c.png", *tae, *more)
        for more in ((), ("--vae-tiling", "--vae-relative-tile-size", "2x1"))
    )
    assert np.abs(tiny_.astype(int) - tiled).max() <= 1
    assert np.abs(tiny_.astype(int) - kept).max() > 9
    with Image.open(tmp_path / "p.png") as image:  # of the last step
        assert (np.asarray(image.convert("RGB")) == tiny_).all()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--preview", "tae"], "there is no tiny autoencoder; give one with --taesd"),
        (["--taesd-preview-only"], "holds no tae beside what is for previews"),
        (["--vae-tile-size", "32x32x3", "--vae-tiling"], "is not WIDTHxHEIGHT"),
        (["--vae-tile-size", "3", "--vae-tiling"], "tile size 3x3: at least 4"),
        (["--vae-relative-tile-size", "0", "--vae-tiling"], "must be above 0"),
        (["--vae-tile-overlap", "0.9", "--vae-tiling"], "must be from 0 to 0.5"),
        (["--vae-tile-size", "16"], "without --vae-tiling"),
    ],
)
def test_bad_input_is_one_line(args, words, tmp_path):
    path = tmp_path / "a.png"
    done = CliRunner().invoke(main, ["generate", "-p", "a", "-o", str(path), *args])
    assert done.exit_code in (1, 2) and words in done.stderr, done.output
    assert len(done.stderr.splitlines()) == 1 and not path.exists()
