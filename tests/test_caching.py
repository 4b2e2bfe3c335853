"""Caches over steps; the network is a formula, the expected values float64."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import seeded
from parity import error, nchw, nhwc

from mlx_sd import ConfigError, Request
from mlx_sd.caching import DeepCache, Spectrum, UCache, options
from mlx_sd.models.unet import Deep
from mlx_sd.opening import open_source
from mlx_sd.sampling.levels import scaled_linear
from mlx_sd.sampling.prediction import Eps
from mlx_sd.sampling.samplers import SAMPLERS, walk

GOLDEN = Path(__file__).parent / "golden"
STEPS = 20
SIGMAS = np.geomspace(14.6, 0.1, STEPS + 1)


@pytest.fixture(scope="module")
def small_unet(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    seeded.save(path, seeded.small_shapes())
    return open_source(path).build("unet", mx.float32)


class Walk:
    """An Euler walk with two conditions, and which of its steps were computed."""

    def __init__(self, cache, twice: bool = False):
        self.computed, self.latents = [], []
        x = np.random.default_rng(3).normal(size=(1, 8, 8, 4)) * SIGMAS[0]
        for step in range(STEPS):
            sigma, target = SIGMAS[step], SIGMAS[step + 1]
            for _ in range(1 + twice):
                outs = self.ask(cache, step, x, sigma)
            out = outs[1] + 3 * (outs[0] - outs[1])
            x = x + (target - sigma) * out
            self.latents.append(x)

    def ask(self, cache, step, x, sigma):
        def compute(deep=None):
            self.computed.append(step)
            return [mx.array(out.astype(np.float32)) for out in network(x, sigma)]

        outs = cache(step, mx.array(x.astype(np.float32)), float(sigma), compute)
        return [np.array(out, np.float64) for out in outs]


def network(x, sigma):
    shown = x / np.sqrt(sigma**2 + 1)
    return [np.tanh(shown * 1.3), np.tanh(shown * 0.9) + 0.1 * np.sin(5 * shown)]


def ucache_of_the_notes(threshold=1.0, reset=True):
    """stable-diffusion.cpp's rule, written straight down in float64: steps, latents."""
    x = np.random.default_rng(3).normal(size=(1, 8, 8, 4)) * SIGMAS[0]
    computed, latents = [], []
    before = out_before = added = change = rate = moved = None
    error, skips, active = 0.0, 0, 0
    for step in range(STEPS):
        sigma, target = SIGMAS[step], SIGMAS[step + 1]
        shown = x / np.sqrt(sigma**2 + 1)
        inside = SIGMAS[int(0.15 * STEPS)] >= sigma > SIGMAS[int(0.95 * STEPS)]
        skip = False
        if inside and before is not None:
            moved = np.abs(shown - before).mean()
            size = np.abs(out_before).mean()
            if rate is not None:
                scale = np.sqrt(size * (size if change is None else change * 1.6))
                error += rate * moved / scale * (1 + 0.5 * skips)
                part = active / STEPS
                limit = threshold * (0.5 if part < 0.2 else 1.5 if part > 0.8 else 1)
                skip = error < limit
                if not skip and reset:
                    error = 0.0
        if skip:
            outs, skips = [shown + a for a in added], skips + 1
        else:
            outs = network(x, sigma)
            computed.append(step)
        if inside and not skip:
            active, skips = active + 1, 0
            if before is not None:
                delta = np.abs(outs[0] - out_before).mean()
                change = delta if change is None else 0.8 * change + 0.2 * delta
                rate = delta / moved
            before, out_before = shown, outs[0]
            added = [out - shown for out in outs]
        x = x + (target - sigma) * (outs[1] + 3 * (outs[0] - outs[1]))
        latents.append(x)
    return computed, latents


@pytest.mark.parametrize(("threshold", "reset"), [(1.0, 1), (2.0, 1), (2.0, 0)])
def test_ucache_skips_the_steps_that_stable_diffusion_cpp_skips(threshold, reset):
    walk = Walk(UCache(SIGMAS, Eps, threshold=threshold, reset=reset))
    computed, latents = ucache_of_the_notes(threshold, bool(reset))
    assert walk.computed == computed and len(computed) < STEPS
    for ours, theirs in zip(walk.latents, latents, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_ucache_computes_every_step_outside_its_window():
    walk = Walk(UCache(SIGMAS, Eps, threshold=1e9, start=0.25, end=0.5))
    assert walk.computed == [*range(7), *range(10, 20)]  # two to learn from


def spectrum_of_the_notes(twice=False):
    x = np.random.default_rng(3).normal(size=(1, 8, 8, 4)) * SIGMAS[0]
    computed, latents, kept = [], [], []
    window, cached, count = 2.0, 0, 0
    for step in range(STEPS):
        sigma, target = SIGMAS[step], SIGMAS[step + 1]
        for _ in range(1 + twice):
            time = 2 * count / 50 - 1
            if 4 <= count < int(0.9 * STEPS) and (cached + 1) % int(window):
                cached += 1
                times = np.array([t for t, _ in kept])
                basis = np.stack([np.cos(k * np.arccos(times)) for k in range(4)], 1)
                here = np.array([np.cos(k * np.arccos(time)) for k in range(4)])
                h = np.stack([d for _, d in kept])
                flat = h.reshape(len(kept), -1)
                fit = np.linalg.solve(basis.T @ basis + np.eye(4), basis.T @ flat)
                curve = (here @ fit).reshape(h.shape[1:])
                line = h[-1] + 0.5 * (h[-1] - h[-2])
                denoised = 0.6 * line + 0.4 * curve
            else:
                outs = network(x, sigma)
                denoised = x - sigma * (outs[1] + 3 * (outs[0] - outs[1]))
                computed.append(step)
                window += 0.5 * (count >= 4)
                cached = 0
                kept = [*kept, (time, denoised)][-6:]
            count += 1
        x = denoised + (x - denoised) * (target / sigma)
        latents.append(x)
    return computed, latents


def test_spectrum_foretells_as_stable_diffusion_cpp_does():
    """There from guided latents; ours, from each condition's, is the same."""
    walk = Walk(Spectrum(SIGMAS, Eps))
    computed, latents = spectrum_of_the_notes()
    assert walk.computed == computed and len(computed) < STEPS
    for ours, theirs in zip(walk.latents, latents, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3, rtol=1e-4)


def test_of_two_evaluations_in_a_step_ucache_answers_the_second():
    """As the first is the same here, it is the only one that changes nothing."""
    walk = Walk(UCache(SIGMAS, Eps, 2), twice=True)
    computed, latents = ucache_of_the_notes()
    assert sorted(walk.computed) == sorted([*range(STEPS), *computed])
    np.testing.assert_allclose(walk.latents[-1], latents[-1], atol=1e-4)


def test_spectrum_foretells_every_evaluation_of_a_step():
    walk = Walk(Spectrum(SIGMAS, Eps, 2), twice=True)
    computed, latents = spectrum_of_the_notes(twice=True)
    assert walk.computed == computed and len(computed) < 2 * STEPS
    for ours, theirs in zip(walk.latents, latents, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_evaluate_as_often_as_they_say(name):
    sampler, asked = SAMPLERS[name], []

    def denoise(x, sigma):
        asked.append(sigma)
        return (0.9 * x, 0.9 * x) if sampler.uncond else 0.9 * x

    steps, sigmas = [], [8.0, 4.0, 2.0, 1.0]
    table = scaled_linear()
    for _ in walk(name, denoise, mx.ones((1, 4, 4, 4)), sigmas, lambda: 0, table=table):
        steps.append(len(asked))
    # plms begins with a step of two.
    assert steps[2] - steps[1] == steps[1] - steps[0] == sampler.evaluations


def test_deepcache_computes_the_deep_levels_at_every_nth_step():
    reused = []

    def compute(deep: Deep):
        reused.append(deep.reuse)
        return []

    cache = DeepCache(range(10), Eps, cache_interval=3)
    for step in range(9):
        cache(step, mx.zeros(1), 1.0, compute)
    assert reused == [False, True, True] * 3


@pytest.mark.parametrize("branch", [0, 1, 3, 4])
def test_deep_levels_are_kept_as_deepcaches_authors_keep_them(branch, small_unet):
    """Every second of four calls, by their package on diffusers' UNet."""
    golden = np.load(GOLDEN / "unet_deepcache.npz")
    context = mx.array(golden["context"])
    deep = Deep(branch)
    for i, (latent, time) in enumerate(
        zip(golden["latents"], golden["times"], strict=True)
    ):
        deep.reuse = i % 2 == 1
        t = mx.full((2,), float(time))
        out = small_unet(nhwc(latent), t, context, deep=deep)
        assert error(nchw(out), golden[f"branch_{branch}"][i]) < 1e-4


def test_options_are_those_of_stable_diffusion_cpp():
    assert options("ucache") == [
        *("threshold", "start", "end", "decay", "relative", "reset")
    ]
    assert options("spectrum") == ["w", "m", "lam", "window", "flex", "warmup", "stop"]


@pytest.mark.parametrize(
    ("mode", "option", "message"),
    [
        ("ucach", "", "unknown cache_mode 'ucach'; did you mean ucache?"),
        ("ucache", "treshold=1", "unknown cache_option of ucache 'treshold'; did you"),
        ("ucache", "start=0.5,end=0.5", "cache_option start: must be less than end"),
        ("ucache", "start=2", "cache_option start=2: must be a number from 0 to 1"),
        (
            "spectrum",
            "m=2.5",
            "cache_option m=2.5: must be a whole number from 0 to 10",
        ),
        ("deepcache", "cache_interval=x", "cache_option: 'cache_interval=x' is not"),
        (None, "threshold=2", "cache_option 'threshold=2': of no cache"),
    ],
)
def test_wrong_options_are_refused(mode, option, message):
    with pytest.raises(ConfigError) as caught:
        Request("a", cache_mode=mode, cache_option=option)
    assert str(caught.value).startswith(message)
