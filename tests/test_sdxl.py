"""What SDXL has of its own: two encoders, picture sizes."""

import checkpoints
import mlx.core as mx
import numpy as np
import pytest
import small_families

import mlx_sd
from mlx_sd.defaults import defaults
from mlx_sd.errors import CheckpointError
from mlx_sd.families import FAMILIES, Conditioning, PictureSizes
from mlx_sd.opening import open_model, open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sdxl") / "model"
    return small_families.write_folder(path, small_families.shapes("SDXL"))


def wave(number: float) -> np.ndarray:
    """Ho et al. 2020, cosine first, 256 wide, in float64."""
    angles = number * 10_000 ** (-np.arange(128) / 128)
    return np.concatenate([np.cos(angles), np.sin(angles)])


@pytest.mark.parametrize(
    "family, negative, numbers",
    [
        ("sdxl", False, (600, 900, 10, 20, 512, 768)),
        ("sdxl", True, (600, 900, 10, 20, 512, 768)),
        ("sdxl_refiner", False, (600, 900, 10, 20, 6)),
        ("sdxl_refiner", True, (600, 900, 10, 20, 2.5)),
    ],
)
def test_the_vector_is_pooled_text_and_sizes_in_the_papers_order(
    family, negative, numbers
):
    pooled = np.random.default_rng(0).normal(size=1280)
    encoded = Conditioning(mx.ones((1, 77, 8)), mx.array(pooled[None], mx.float32))
    sizes = PictureSizes(original=(600, 900), crop=(10, 20), target=(512, 768))
    found = FAMILIES[family].condition("", encoded, sizes, negative)
    zeroed = family == "sdxl" and negative
    expected = np.concatenate([pooled * (not zeroed), *map(wave, numbers)])
    np.testing.assert_allclose(np.array(found.vector)[0], expected, atol=1e-4)
    assert (np.array(found.context) == 0).all() == zeroed
    kept = FAMILIES[family].condition(" ", encoded, sizes, negative)
    assert (np.array(kept.context) == 1).all()


def test_each_encoder_weighs_its_own_states(folder):
    pipeline = mlx_sd.load(folder, dtype="f32")
    plain, weighed = (
        np.array(pipeline.encode(text, mlx_sd.Request("")).context, np.float64)
        for text in ("a red cat", "a (red:1.5) cat")
    )
    for part in (slice(768), slice(768, None)):
        expected = plain[..., part].copy()
        red = np.flatnonzero(np.abs(plain - weighed).max(axis=(0, 2)) > 0)
        assert len(red) > 1  # the scaling touches all of them
        ids = pipeline.source.tokenizer.encode("a")
        first = 1 + len(ids)
        last = first + len(pipeline.source.tokenizer.encode("red"))
        expected[:, first:last] *= 1.5
        expected *= plain[..., part].mean() / expected.mean()
        scale = np.abs(expected).max()
        assert np.abs(weighed[..., part] - expected).max() < 1e-3 * scale


def test_pooled_text_is_of_the_last_layer_and_the_first_chunk(folder):
    pipeline = mlx_sd.load(folder, dtype="f32")
    usual, skipped, longer = (
        pipeline.encode(text, mlx_sd.Request("", clip_skip=skip))
        for text, skip in (("a cat", None), ("a cat", 3), ("a cat BREAK a dog", None))
    )
    assert not mx.array_equal(usual.context, skipped.context)
    assert np.allclose(usual.pooled, skipped.pooled, atol=1e-6)
    assert longer.context.shape[1] == 154
    assert np.allclose(usual.pooled, longer.pooled, atol=1e-4)


def test_a_text_encoder_without_its_projection_is_an_error(folder, tmp_path):
    shapes = small_families.shapes("SDXL")["text_encoder_2"]
    del shapes["text_projection.weight"]
    path = checkpoints.hollow(tmp_path / "x.safetensors", shapes)
    with pytest.raises(
        CheckpointError, match="of 1536 numbers, and the UNet wants 2816"
    ):
        open_model(folder, clip_g=path)


def test_the_default_size_is_that_of_training(folder):
    assert defaults(open_source(folder)).size == 1024
