"""Schedules and samplers against published values and exact solutions."""

from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.errors import ConfigError
from mlx_sd.sampling.guidance import cfg
from mlx_sd.sampling.prediction import Eps, scaled_linear
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
