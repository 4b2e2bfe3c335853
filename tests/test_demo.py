"""The model in the package: its size, its autoencoder, and what it paints."""

import itertools

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd import Request, load
from mlx_sd.demo.captions import describe
from mlx_sd.demo.painter import render
from mlx_sd.demo.scenes import stream
from mlx_sd.demo.score import read
from mlx_sd.opening import DEMO


@pytest.fixture(scope="module")
def pipeline():
    return load(dtype="f32")


@pytest.fixture(scope="module")
def asked():
    """Scenes held out of training, with a caption each."""
    rows = itertools.islice(stream(3, held=True), 6)
    return [(scene, describe(scene, rng)) for scene, rng in rows]


def test_all_its_files_together_are_at_most_32_mb():
    assert sum(p.stat().st_size for p in DEMO.rglob("*") if p.is_file()) <= 32e6


def test_autoencoder_keeps_held_out_scenes_to_30_db(pipeline, asked):
    vae = pipeline.source.build("vae", mx.float32)
    pictures = np.stack([render(scene) for scene, _ in asked])
    pixels = mx.array(pictures.astype(np.float32) / 127.5 - 1)
    mean = vae.encode(pixels).mean
    square = mx.mean(mx.square(mx.clip(vae.decode(mean), -1, 1) - pixels)).item()
    assert 10 * np.log10(4 / square) >= 30
    # The family's constant brings latents to unit size.
    assert mx.std(mean).item() * 0.18215 == pytest.approx(1, abs=0.15)


def test_it_paints_the_sky_and_ground_that_the_prompt_names(pipeline, asked):
    for scene, caption in asked:
        (image,) = pipeline(Request(caption.text, steps=10))
        sky, ground, _ = read(np.asarray(image))
        names = {name for name, _ in caption.named}
        assert "sky" not in names or sky == scene.sky, caption.text
        assert "ground" not in names or ground == scene.ground, caption.text


def test_a_named_thing_is_there_in_its_colour(pipeline):
    prompt = "a red house in the middle under a night sky on grass"
    (image,) = pipeline(Request(prompt))
    sky, _, things = read(np.asarray(image))
    assert sky == "night"
    assert ("house", "red") in {(thing.kind, thing.colour) for thing in things}
