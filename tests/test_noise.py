"""Random numbers against torch, published vectors and stable-diffusion.cpp's own."""

import json
import math
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from make_noise import COUNTS, digest

from mlx_sd.sampling.elementary import log, sincos
from mlx_sd.sampling.mt19937 import MersenneTwister
from mlx_sd.sampling.noise import RNGS, Philox, generators, latent_noise, philox

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # "kat_vectors" of Random123, the Philox authors' library: philox4x32, 10 rounds
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ),
        (
            (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    rows = philox(np.array(counter, np.uint32)[:, None], np.array(key, np.uint32))
    assert tuple(int(row[0]) for row in rows) == words


@pytest.mark.parametrize(
    ("rng", "seed", "calls"),
    [
        (
            Philox,
            0,
            [
                "-0.924662 -0.425344 -2.643846 0.145184 -0.120867 -0.579726 -0.622852 "
                "-0.328387"
            ],
        ),
        (
            Philox,
            42,
            [
                "0.194019 2.161374 -0.172051 0.849060 -1.924399 0.652985",
                "0.139138 -0.108216 -0.717422 0.756649",
            ],
        ),
        (MersenneTwister, 42, ["0.3367 0.1288 0.2345 0.2303 -1.1229 -0.1863"]),
    ],
)
def test_noise_is_what_stable_diffusion_cpp_draws(rng, seed, calls):
    # Read off its own generators; later calls included.
    stream = rng(seed)
    for text in calls:
        expected = [float(number) for number in text.split()]
        digits = len(text.split()[0].split(".")[1])
        drawn = stream.normal(len(expected))
        np.testing.assert_allclose(drawn, expected, atol=0.51 * 10.0**-digits)


@pytest.mark.parametrize(
    ("count", "first"), [(16, "0.6784 -1.2345"), (20, "-0.7581 1.0783")]
)
def test_a_rest_of_fewer_than_16_redraws_the_last_16(count, first):
    # Read off stable-diffusion.cpp: the first four are the same, the next two not.
    drawn = MersenneTwister(42).normal(count)[:6]
    expected = [1.9269, 1.4873, 0.9007, -2.1055, *map(float, first.split())]
    np.testing.assert_allclose(drawn, expected, atol=5.1e-5)


@pytest.mark.parametrize("seed", json.loads((GOLDEN / "noise.json").read_text()))
def test_cpu_noise_is_torchs_to_the_bit_over_many_sizes_and_calls(seed):
    expected = json.loads((GOLDEN / "noise.json").read_text())[seed]
    stream = MersenneTwister(int(seed))
    assert [digest(stream.normal(count)) for count in COUNTS] == expected


def test_cpu_noise_has_torchs_zero_without_a_sign():
    # Read off torch 2.13: the uniform number that is 0 makes a radius of -0.
    drawn = MersenneTwister(12).normal(411_312)[411_302]
    assert drawn == 0 and not np.signbit(drawn)


def test_logarithm_sine_and_cosine_are_those_of_mathematics():
    # float64 rounds to the nearest float32; one step from there is allowed.
    rng = np.random.default_rng(0)
    x = np.concatenate([10 ** rng.uniform(-9, 0, 100_000), [1.0]]).astype(np.float32)
    exact = np.log(x.astype(np.float64))
    assert (np.abs(log(x) - exact) <= np.spacing(np.abs(exact).astype("f"))).all()
    x = rng.uniform(0, 2 * math.pi, 100_000).astype(np.float32)
    sin, cos = sincos(x)
    assert np.abs(sin - np.sin(x, dtype=np.float64)).max() <= 2**-23
    assert np.abs(cos - np.cos(x, dtype=np.float64)).max() <= 2**-23


@pytest.mark.parametrize("rng", RNGS.values(), ids=RNGS.keys())
def test_noise_is_unit_normal_and_depends_on_seed_and_call(rng):
    stream = rng(3)
    first, second = stream.normal(40_000), stream.normal(40_000)
    assert first.dtype == np.float32
    for draw in (first, second):
        # Five standard errors of mean, variance and fourth moment.
        assert abs(draw.mean()) < 5 / 200
        assert abs(draw.var() - 1) < 5 * math.sqrt(2) / 200
        assert abs((draw**4).mean() - 3) < 5 * math.sqrt(96) / 200
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / 200
    assert np.array_equal(rng(3).normal(40_000), first)
    assert not np.array_equal(rng(4).normal(40_000), first)


def test_seeds_of_more_than_32_bits_differ_where_the_generator_takes_them():
    high = 3 + (1 << 32)
    assert not np.array_equal(Philox(high).normal(100), Philox(3).normal(100))


@pytest.mark.parametrize("rng", RNGS.values(), ids=RNGS.keys())
def test_noise_of_a_1024_pixel_latent_takes_under_20_ms(rng):
    def seconds() -> float:
        start = time.process_time()  # other programs do not count
        rng(0).normal(4 * 128 * 128)
        return time.process_time() - start

    assert min(seconds() for _ in range(10)) < 0.020


def test_latent_noise_is_drawn_channel_by_channel():
    golden = np.load(GOLDEN / "picture_euler.npz")["noise"]
    ours = latent_noise(Philox(42), 32, 32, 4)
    assert ours.shape == (1, 32, 32, 4) and ours.dtype == mx.float32
    np.testing.assert_allclose(np.array(ours).transpose(0, 3, 1, 2), golden, atol=2e-6)


@pytest.mark.parametrize("same", [None, "cpu"])
def test_the_sampler_goes_on_with_the_stream_of_the_initial_noise(same):
    initial, later = generators("cpu", same, 7)
    assert later is initial


def test_a_sampler_generator_of_another_kind_starts_from_the_seed():
    initial, later = generators("cpu", "cuda", 7)
    alone = MersenneTwister(7)
    for count in (100, 8):
        np.testing.assert_array_equal(initial.normal(count), alone.normal(count))
    np.testing.assert_array_equal(later.normal(8), Philox(7).normal(8))


@pytest.mark.parametrize("seed", [0, 42, 12345678901234567, 2**64 - 1])
def test_mlx_is_given_the_same_bits_where_a_gpu_draws_them_too(seed):
    there, here = Philox(seed), Philox(seed)
    for count in (1, 333, 1 << 20):
        drawn = np.array(there.drawn(count))
        assert (drawn.view(np.uint32) == here.normal(count).view(np.uint32)).all()
