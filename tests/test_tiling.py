"""Bands of rows: any height of them gives what one piece does, in less memory."""

from functools import partial

import mlx.core as mx
import numpy as np
import parity
import pytest
import tiny
from arrays_memory import taken
from safetensors.numpy import save_file
from test_codec import GOLDEN, SCALE
from test_taesd import GOLDEN as TINY_GOLDEN

from mlx_sd import ConfigError
from mlx_sd.build import build
from mlx_sd.codec import Codec
from mlx_sd.convert.detect import as_part
from mlx_sd.convert.readers import read_file
from mlx_sd.kernels import cpu
from mlx_sd.models import vae_bands
from mlx_sd.nn.bands import Bands
from mlx_sd.nn.linear import Conv2d
from mlx_sd.nn.norm import GroupNorm
from mlx_sd.nn.resample import Downsample, Upsample
from mlx_sd.opening import open_source
from mlx_sd.quantize import parse_rules
from mlx_sd.tiling import Tiling

LEAST = 16  # pixels, which makes all bands as low as can be
BOUND = 2 * 2 / 255  # of the mean difference, in [-1, 1]: 2/255 of white


def normal(*shape: int) -> mx.array:
    return mx.array(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.mark.parametrize(
    "layer, scale",
    [
        (lambda: Upsample(8), 2),
        (lambda: Downsample(8, True), 0.5),
        (lambda: Downsample(8, False), 0.5),
    ],
)
@pytest.mark.parametrize("height", [4, 6, 16, 22])
def test_a_layer_gives_the_same_in_bands_of_any_height(layer, scale, height):
    x, layer = normal(2, height, 10, 8), layer()
    expected = layer(x)
    for pixels in (1, 60, 80, 1000):
        out = Bands([x], pixels).through(layer, reach=2, scale=scale)
        again = Bands(Bands([x], 40).each(lambda rows: rows), pixels)
        for found in (out, again.through(layer, reach=2, scale=scale)):
            assert mx.allclose(found.whole(), expected, rtol=0, atol=1e-5)


def test_a_norm_knows_the_parts_it_is_shown_and_no_others():
    norm, x = GroupNorm(64, 1e-6), 3 * normal(2, 12, 5, 64) + 7
    norm.weight, norm.bias = normal(64), normal(1, 64)[0]
    expected = norm(x, silu=True)
    parts = [x[:, :1], x[:, 1:8], x[:, 8:]]
    run = partial(norm.of_parts(parts), middle(x.shape[3]))
    assert mx.allclose(run(x), expected, rtol=0, atol=1e-5)
    assert mx.allclose(run(x[:, 3:5]), expected[:, 3:5], rtol=0, atol=1e-5)
    other = norm.of_parts(parts[:2])(middle(x.shape[3]), x)
    assert not mx.allclose(other, expected, rtol=0, atol=1e-2)


def middle(channels: int) -> Conv2d:
    """A convolution that gives what it is given."""
    conv = Conv2d(channels, channels, 3, padding=1)
    weight = np.zeros((channels, 3, 3, channels), np.float32)
    weight[:, 1, 1] = np.eye(channels)
    conv.weight = mx.array(weight)
    return conv


@pytest.mark.parametrize("pixels", [LEAST, 128, 1 << 20])
def test_the_vae_matches_its_reference_in_bands_of_any_height(small, pixels):
    vae = open_source(small).build("vae", mx.float32)
    picture = vae_bands.decode(vae, parity.nhwc(GOLDEN["latent"]), pixels)
    assert parity.error(parity.nchw(picture), GOLDEN["picture"]) < 1e-5
    found = vae_bands.encode(vae, parity.nhwc(GOLDEN["image"]), pixels)
    assert parity.error(parity.nchw(found.mean), GOLDEN["mean"]) < 1e-5
    assert parity.error(parity.nchw(found.logvar), GOLDEN["logvar"]) < 1e-5


@pytest.mark.parametrize("pixels", [LEAST, 128])
@pytest.mark.parametrize("kind", tiny.NAMES)
def test_tiny_autoencoders_match_theirs_too(kind, pixels, tmp_path):
    path = tmp_path / "tae.safetensors"
    save_file(tiny.weights(kind, "authors"), path)
    tae = build("tae", as_part(read_file(path), "tae").parts["tae"], mx.float32)
    for run, given, expected in (
        (tae.encode, "image", "encoded"),
        (tae.decode, "latent", "picture"),
    ):
        out = run(parity.nhwc(TINY_GOLDEN[f"{kind}_{given}"]), pixels)
        assert parity.error(parity.nchw(out), TINY_GOLDEN[f"{kind}_{expected}"]) < 1e-5


def coded(path, tiling: Tiling | None, dtype: mx.Dtype = mx.float32) -> Codec:
    types = parse_rules(None, None)
    return Codec(open_source(path), "vae", dtype, types, tiling)


@pytest.mark.parametrize("dtype, bound", [(mx.float32, 1e-5), (mx.float16, BOUND)])
def test_tiles_leave_no_seam(small, dtype, bound):
    latent = SCALE * 5 * normal(1, 12, 8, 4)  # 96x64 pixels, in bands of four rows
    tiled = coded(small, Tiling(size=(4, 4)), dtype)
    whole, picture = coded(small, None).decode(latent), tiled.decode(latent)
    assert picture.dtype == dtype and picture.shape == (1, 96, 64, 3)
    assert mx.abs(picture.astype(mx.float32) - whole).mean() < bound
    expected = coded(small, None).encode(whole, None)
    difference = mx.abs(tiled.encode(whole, None) - expected)
    assert difference.mean() < bound * mx.abs(expected).mean()


@pytest.mark.parametrize("kernels", [True, False])
def test_a_norm_that_sees_parts_holds_one_at_a_time(kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(cpu, "library", lambda: None)
    norm, x = GroupNorm(64, eps=1e-6), mx.ones((1, 64, 64, 64))
    mx.eval(x, norm.parameters())

    def parts():
        for i in range(32):
            part = x + i
            mx.eval(part)
            yield part

    assert taken(lambda: norm.of_parts(parts())) < 8 * x.nbytes


def test_a_decoder_waits_for_memory_after_each_level(small, waits):
    codec = coded(small, None)
    codec.decode(normal(1, 4, 4, 4))
    assert waits.count("synchronize") >= len(codec._model.decoder.levels)


def test_tiles_take_less_memory(small):
    _, tiled = peaks(small)
    assert tiled < TWO_MAPS


def test_tiles_take_a_fifth_of_what_a_cpu_without_kernels_does(small, monkeypatch):
    monkeypatch.setattr(cpu, "library", lambda: None)
    with mx.stream(mx.cpu):
        whole, tiled = peaks(small)
    assert tiled < TWO_MAPS and tiled < whole / 5


TWO_MAPS = 4 * 256 * 128 * 32 * 4  # inputs and outputs of blocks at the finest level


def peaks(path) -> list[int]:
    """Bytes that decoding takes in one piece, and in tiles."""
    latent, found = normal(1, 32, 16, 4), []
    for tiling in (None, Tiling(size=(4, 4))):
        codec = coded(path, tiling)
        codec.decode(latent[:, :4, :4])  # reads the weights
        found.append(taken(partial(codec.decode, latent)))
    return found


def test_memory_that_is_freed_is_kept_again_afterwards(small):
    limit = mx.set_cache_limit(123 << 20)
    try:
        coded(small, Tiling()).decode(normal(1, 4, 4, 4))
    finally:
        assert mx.set_cache_limit(limit) == 123 << 20


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
