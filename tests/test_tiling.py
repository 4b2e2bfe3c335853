"""Tiles cover a map evenly, blend without a seam, and are computed one at a time."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_sd import ConfigError
from mlx_sd.nn.resample import nearest
from mlx_sd.tiling import Tiling, tiled_decode, tiled_encode


def enlarged(x: mx.array) -> mx.array:
    """Eight times as high and wide."""
    return nearest(x, 8 * x.shape[1], 8 * x.shape[2])


def reduced(x: mx.array) -> mx.array:
    B, H, W, C = x.shape
    return x.reshape(B, H // 8, 8, W // 8, 8, C).mean(axis=(2, 4))


def normal(*shape: int) -> mx.array:
    return mx.array(np.random.default_rng(0).standard_normal(shape, np.float32))


LATENTS = [(64, 64), (33, 90), (32, 32), (20, 41), (16, 128), (40, 40), (5, 3)]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("height, width", LATENTS)
def test_what_depends_on_its_own_pixel_alone_is_as_without_tiles(
    height, width, overlap
):
    tiling, latent = Tiling(overlap=overlap), normal(2, height, width, 4)
    out = tiled_decode(enlarged, latent, tiling)
    assert mx.allclose(out, enlarged(latent), rtol=0, atol=1e-5)
    image = enlarged(latent)
    out = tiled_encode(reduced, image, tiling, reduction=8)
    assert out.shape == latent.shape
    assert mx.allclose(out, latent, rtol=0, atol=1e-5)


def test_a_convolution_is_as_without_tiles_where_none_ends():
    conv = nn.Conv2d(4, 3, 5, padding=2)
    latent = normal(1, 64, 64, 4)
    difference = mx.abs(tiled_decode(conv, latent, Tiling()) - conv(latent))[0]
    far = np.array(difference[:, :14].max(axis=(1, 2)))  # from where columns end
    # Tiles lie at 0, 16 and 32: two rows at each inner end see less than there is.
    assert set(np.flatnonzero(far > 1e-5)) <= {16, 17, 30, 31, 32, 33, 46, 47}


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_tiles_that_differ_meet_without_a_step(overlap):
    count = iter(range(100))
    out = tiled_decode(
        lambda x: mx.full(enlarged(x).shape, float(next(count) % 2)),
        mx.zeros((1, 16, 64, 4)),
        Tiling(overlap=overlap),
    )
    row = np.array(out[0, 0, :, 0])
    assert row.min() == 0 and row.max() == pytest.approx(1)
    # S rises by 15/8 of its mean slope at most, over 8 pixels of at least 8 columns.
    assert np.abs(np.diff(row)).max() < 15 / 8 / 64 * 1.05


def test_tiles_are_computed_one_after_the_other():
    seen = []

    def run(x):
        seen.append(x.shape)
        return enlarged(x)

    tiled_decode(run, normal(1, 64, 96, 4), Tiling())
    assert seen == [(1, 32, 32, 4)] * 3 * 5
    seen.clear()
    tiled_encode(
        lambda x: (seen.append(x.shape), reduced(x))[1],
        enlarged(normal(1, 64, 128, 3)),
        Tiling(),
        8,
    )
    assert seen == [(1, 512, 512, 3)] * 3  # tiles to encode are twice as long


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_the_type_is_that_of_what_is_run(dtype):
    out = tiled_decode(enlarged, normal(1, 40, 40, 4).astype(dtype), Tiling())
    assert out.dtype == dtype


# stable-diffusion.cpp: a share of the length, or 1/(n - n·o + o) of it for n tiles.
@pytest.mark.parametrize(
    "tiling, expected",
    [
        (Tiling(), (32, 32)),
        (Tiling(size=(24, 40)), (40, 24)),
        (Tiling(size=(500, 40)), (40, 128)),
        (Tiling(relative=(0.5, 1.0)), (96, 64)),
        (Tiling(relative=(2.0, 3.0), overlap=0.5), (48, 85)),
        (Tiling(relative=(2.0, 3.0), overlap=0.0), (32, 64)),
        (Tiling(relative=(0.001, 0.25)), (24, 4)),
    ],
)
def test_sizes_are_as_in_stable_diffusion_cpp(tiling, expected):
    assert tiling.tile(96, 128) == expected


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"size": (3, 32)}, "tile size 3x32: at least 4"),
        ({"relative": (0.0, 1.0)}, "must be above 0"),
        ({"relative": (float("nan"), 1.0)}, "must be above 0"),
        ({"overlap": 0.51}, "overlap 0.51: must be from 0 to 0.5"),
        ({"overlap": -0.1}, "must be from 0 to 0.5"),
    ],
)
def test_what_is_out_of_range_is_an_error(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Tiling(**wrong)


def test_a_picture_that_is_no_multiple_is_an_error():
    with pytest.raises(ConfigError, match="100x64 cannot be encoded in tiles"):
        tiled_encode(reduced, mx.zeros((1, 64, 100, 3)), Tiling(), reduction=8)
