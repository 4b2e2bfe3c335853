"""Schedules and samplers against published values and exact solutions."""

import math
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.errors import ConfigError
from mlx_sd.sampling.guidance import cfg
from mlx_sd.sampling.noise import Philox
from mlx_sd.sampling.prediction import Eps, scaled_linear
from mlx_sd.sampling.samplers import SAMPLERS, Noise, ancestral
from mlx_sd.sampling.schedules import SCHEDULES, sigmas

GOLDEN = Path(__file__).parent / "golden"
TABLE = scaled_linear()


@pytest.mark.parametrize(
    ("golden", "schedule"), [("euler", "discrete"), ("dpmpp2m_karras", "karras")]
)
def test_schedule_matches_an_independent_one(golden, schedule):
    expected = np.load(GOLDEN / f"picture_{golden}.npz")["sigmas"]
    np.testing.assert_allclose(sigmas(schedule, 4, TABLE), expected, rtol=1e-6)


def test_training_noise_has_the_published_ends():
    # k-diffusion prints these for SD 1.x.
    assert TABLE.sigma_min == pytest.approx(0.0292, abs=5e-5)
    assert TABLE.sigma_max == pytest.approx(14.6146, abs=5e-5)


@pytest.mark.parametrize("t", [0.0, 0.5, 481.3, 998.0, 998.999, 999.0])
def test_timestep_and_noise_level_are_inverse(t):
    assert TABLE.t(TABLE.sigma(t)) == pytest.approx(t, abs=1e-6)


def test_levels_beyond_the_table_take_its_end():
    assert TABLE.t(1e-4) == 0 and TABLE.t(100) == 999


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 150])
def test_schedule_falls_strictly_to_zero(schedule, steps):
    levels = sigmas(schedule, steps, TABLE)
    assert len(levels) == steps + 1 and levels[-1] == 0.0
    assert levels[0] == pytest.approx(TABLE.sigma_max)
    assert all(a > b for a, b in pairwise(levels))


def test_no_steps_are_an_error():
    with pytest.raises(ConfigError, match="at least 1"):
        sigmas("discrete", 0, TABLE)


def test_prediction_is_the_same_in_both_directions():
    rng = np.random.default_rng(0)
    x0, noise = (mx.array(rng.normal(size=(1, 4, 4, 4)).astype("f")) for _ in range(2))
    x = Eps.noised(x0, noise, 3.0)
    assert mx.allclose(Eps.out(x0, x, 3.0), noise, atol=1e-5)
    assert mx.allclose(Eps.x0(noise, x, 3.0), x0, atol=1e-5)
    assert float(mx.var(Eps.scale_input(x, 3.0))) == pytest.approx(1, abs=0.3)


def test_guidance_extrapolates_from_uncond_through_cond():
    cond, uncond = mx.array([3.0]), mx.array([1.0])
    assert cfg(cond, uncond, 1.0).item() == 3 and cfg(cond, uncond, 7.0).item() == 15


def gaussian(spread: float):
    """The exact denoiser of data N(0, spread²): x0 = x·spread²/(spread² + sigma²)."""
    return lambda x, sigma: x * (spread**2 / (spread**2 + sigma**2))


def noise_like(x: mx.array) -> Noise:
    rng = Philox(1)
    return lambda: mx.array(rng.normal(x.size).reshape(x.shape))


def final(name: str, x: mx.array, levels: list[float], spread=0.5) -> mx.array:
    noise = noise_like(x)
    *_, last = SAMPLERS[name].run(gaussian(spread), x, levels, noise)
    return last.x


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("dpm++2m", 2)])
def test_deterministic_sampler_converges_at_its_order(name, order):
    # The probability flow of that data scales x by the ratio of deviations. The last
    # level is not 0, so that every step counts.
    spread, high, low = 0.5, 10.0, 0.5
    exact = math.sqrt((spread**2 + low**2) / (spread**2 + high**2))
    counts = [16, 32, 64, 128]
    errors = []
    for n in counts:
        levels = np.geomspace(high, low, n + 1).tolist()
        errors.append(abs(final(name, mx.array([1.0]), levels).item() - exact) / exact)
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.25), errors


def test_ancestral_sampling_keeps_the_variance():
    # 40 000 samples: the standard error of the variance is 0.7 %; steps add about 1 %.
    x = mx.array(Philox(9).normal(40_000)) * TABLE.sigma_max
    out = np.array(final("euler_a", x, sigmas("karras", 200, TABLE), spread=2.0))
    assert out.var() == pytest.approx(4.0, rel=0.05) and abs(out.mean()) < 0.06


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ancestral_split_adds_up_to_the_target(eta):
    down, up = ancestral(3.0, 2.0, eta)
    assert math.hypot(down, up) == pytest.approx(2.0)
    assert (up == 0) == (eta == 0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_yields_every_step_and_ends_on_the_prediction(name):
    levels = sigmas("discrete", 6, TABLE)
    x = mx.array(Philox(0).normal(4)) * levels[0]
    noise = noise_like(x)
    steps = list(SAMPLERS[name].run(gaussian(1.0), x, levels, noise))
    assert [step.index for step in steps] == list(range(6))
    assert [step.sigma for step in steps] == levels[:-1]
    assert mx.allclose(steps[-1].x, steps[-1].denoised)
