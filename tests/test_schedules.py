"""Schedules against diffusers, SciPy, and the papers' formulas in float64."""

import inspect
import json
import math
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from mlx_sd.errors import ConfigError
from mlx_sd.sampling.levels import scaled_linear, zero_terminal_snr
from mlx_sd.sampling.prediction import PREDICTIONS
from mlx_sd.sampling.schedules import SCHEDULES, parse_sigmas, sigmas
from mlx_sd.sampling.schedules.quantile import beta_quantile
from mlx_sd.sampling.schedules.tables import GITS

FOLDER = Path(__file__).parent / "golden"
GOLDEN = json.loads((FOLDER / "schedules.json").read_text())
TABLE = scaled_linear()
SHARES = ("flux", "flux2", "logit_normal")  # of noise, from 1 down
LEVELS = {
    "zero_snr": zero_terminal_snr(TABLE),
    **{name: prediction.levels(TABLE) for name, prediction in PREDICTIONS.items()},
}


def golden(name: str):
    """(steps, expected) of each number of steps."""
    return [(int(steps), expected) for steps, expected in GOLDEN[name].items()]


def at(timesteps) -> list[float]:
    """Levels at timesteps, log-linear between whole ones, and 0: in float64 NumPy."""
    kept = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    logs = np.log((1 - kept) / kept) / 2
    return [*np.exp(np.interp(timesteps, np.arange(1000), logs)), 0.0]


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS.keys())
@pytest.mark.parametrize("name", SCHEDULES)
def test_any_number_of_steps_falls_strictly_to_zero(name, levels):
    # More than the timesteps that there are, once; that takes a while.
    many = (999, 1000, 1001) if levels is TABLE else ()
    for steps in (*range(1, 22), 51, 78, 139, *many):
        found = sigmas(name, steps, levels)
        assert len(found) == steps + 1 and found[-1] == 0.0, steps
        assert all(a > b for a, b in pairwise(found)), steps
        assert all(map(math.isfinite, found)), steps


@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - {*SHARES, "ddim_uniform"}))
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_a_schedule_starts_at_the_last_timestep(name, steps):
    highest = TABLE.sigma_max
    if (name, steps) == ("bong_tangent", 1):
        highest = (TABLE.sigma_max + TABLE.sigma_min) / 2
    assert sigmas(name, steps, TABLE)[0] == pytest.approx(highest, rel=1e-5)


@pytest.mark.parametrize("name", SHARES)
def test_a_schedule_of_shares_starts_at_1(name):
    for steps in (1, 2, 7, 20, 1001):
        assert 1 - 2e-4 < sigmas(name, steps, TABLE)[0] <= 1


@pytest.mark.parametrize("name", ["karras", "exponential"])
def test_levels_are_those_of_diffusers(name):
    for steps, expected in golden(name):
        # Its table is in float32, which shows where almost all is signal.
        np.testing.assert_allclose(sigmas(name, steps, TABLE), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("golden", "schedule"), [("euler", "discrete"), ("dpmpp2m_karras", "karras")]
)
def test_levels_are_those_that_painted_the_golden_pictures(golden, schedule):
    expected = np.load(FOLDER / f"picture_{golden}.npz")["sigmas"]
    np.testing.assert_allclose(sigmas(schedule, 4, TABLE), expected, rtol=1e-6)


@pytest.mark.parametrize("steps", [2, 7, 20])
def test_levels_are_those_of_the_papers(steps):
    low, high = TABLE.sigma_min, TABLE.sigma_max
    r = np.linspace(0, 1, steps)
    expected = {
        # k-diffusion's get_sigmas
        "discrete": at(np.linspace(999, 0, steps)),
        # Karras et al. 2022, eq. 5
        "karras": [*(high ** (1 / 7) * (1 - r) + low ** (1 / 7) * r) ** 7, 0],
        "exponential": [*np.geomspace(high, low, steps), 0],
        # Sabour et al. 2024
        "kl_optimal": [*np.tan(np.arctan(high) * (1 - r) + np.arctan(low) * r), 0],
        # generative-models' uniform spacing, without its end
        "sgm_uniform": at(np.linspace(999, 0, steps, endpoint=False)),
    }
    for name, levels in expected.items():
        np.testing.assert_allclose(
            sigmas(name, steps, TABLE), levels, rtol=1e-9, err_msg=name
        )


@pytest.mark.parametrize("name", ["discrete", "karras", "exponential", "kl_optimal"])
def test_one_step_goes_from_the_highest_level_to_0(name):
    assert sigmas(name, 1, TABLE) == [pytest.approx(TABLE.sigma_max), 0]


@pytest.mark.parametrize(
    ("name", "spacing"),
    [("lcm", "lcm"), ("ddim_uniform", "leading"), ("simple", "trailing")],
)
def test_timesteps_are_those_of_diffusers(name, spacing):
    for steps, expected in golden(spacing):
        np.testing.assert_allclose(sigmas(name, steps, TABLE), at(expected), rtol=1e-9)


def test_simple_rounds_timesteps_up():
    expected = at([999 - 1000 * i // 7 for i in range(7)])
    np.testing.assert_allclose(sigmas("simple", 7, TABLE), expected, rtol=1e-9)


@pytest.mark.parametrize("steps", [2, 7, 20, 77])
def test_smoothstep_rounds_timesteps_of_the_cubic(steps):
    u = 1 - np.arange(steps) / steps
    expected = at(np.floor(999 * (3 * u**2 - 2 * u**3) + 0.5))
    np.testing.assert_allclose(sigmas("smoothstep", steps, TABLE), expected, rtol=1e-9)


def test_timesteps_that_would_be_the_same_are_not_rounded():
    # smoothstep from 78 steps on, beta from 139, lcm beyond the 50 it knows.
    u = 1 - np.arange(78) / 78
    expected = at(999 * (3 * u**2 - 2 * u**3))
    np.testing.assert_allclose(sigmas("smoothstep", 78, TABLE), expected, rtol=1e-9)
    expected = at(np.linspace(999, 0, 51, endpoint=False))
    np.testing.assert_allclose(sigmas("lcm", 51, TABLE), expected, rtol=1e-9)
    assert len({round(TABLE.t(s)) for s in sigmas("beta", 300, TABLE)[:-1]}) < 300


@pytest.mark.parametrize("shape", GOLDEN["beta"])
def test_beta_takes_scipys_quantiles(shape):
    a, b = map(float, shape.split())
    for steps, expected in GOLDEN["beta"][shape].items():
        ours = [beta_quantile(1 - i / int(steps), a, b) for i in range(int(steps))]
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)
    levels = sigmas("beta", 7, TABLE, args={"alpha": a, "beta": b})
    expected = at(np.rint(999 * np.array(GOLDEN["beta"][shape]["7"])))
    np.testing.assert_allclose(levels, expected, rtol=1e-9)


def test_beta_is_that_of_the_paper_unless_told_otherwise():
    same = sigmas("beta", 7, TABLE, args={"alpha": 0.6, "beta": 0.6})
    assert sigmas("beta", 7, TABLE) == same


@pytest.mark.parametrize("family, table", [("sd1", "sd1"), ("sd2", "sd1")])
def test_ays_has_the_published_timesteps(family, table):
    expected = at(GOLDEN["ays"][table])
    found = sigmas("ays", 10, TABLE, family=family)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_ays_has_the_published_levels_of_other_families():
    for family in ("sdxl", "sdxl_refiner"):
        found = sigmas("ays", 10, TABLE, family=family)
        np.testing.assert_allclose(found, at(GOLDEN["ays"]["sdxl"]), rtol=1e-6)
    found = sigmas("ays", 10, TABLE, family="svd")
    np.testing.assert_allclose(found, GOLDEN["ays"]["svd"], rtol=1e-9)


def test_ays_is_stretched_in_the_logarithm():
    # As its authors' howto does: at 20 steps every other level is one of 10 steps.
    levels = sigmas("ays", 20, TABLE)
    np.testing.assert_allclose(levels[:20:2], sigmas("ays", 10, TABLE)[:10])
    np.testing.assert_allclose(levels[1], math.sqrt(levels[0] * levels[2]))
    last = 0.0291671582
    assert levels[19] == pytest.approx(math.sqrt(levels[18] * last))


def test_ays_of_another_family_is_an_error():
    with pytest.raises(ConfigError, match="no noise levels for flux, only for sd1, "):
        sigmas("ays", 10, TABLE, family="flux")


@pytest.mark.parametrize(
    ("steps", "inner"),
    [  # Chen et al.'s levels at coefficient 1.20, as ComfyUI publishes them
        (2, [0.803307]),
        (5, [2.84484982, 1.24153244, 0.59516323, 0.25053367]),
        (8, [5.85520077, 2.45070267, 1.36964464, 0.803307, 0.45573691, 0.25053367]),
    ],
)
def test_gits_has_the_published_levels(steps, inner):
    levels = sigmas("gits", steps, TABLE)
    assert levels[0] == pytest.approx(14.61464119) and levels[-1] == 0
    assert levels[1 : len(inner) + 1] == pytest.approx(inner, rel=1e-12)


def test_gits_levels_are_of_the_grid_that_they_were_chosen_from():
    # Of 101 timesteps, spaced evenly from 999 to 0.
    hundredths = np.array([TABLE.t(level) for row in GITS.values() for level in row])
    hundredths /= 9.99
    np.testing.assert_allclose(hundredths, np.rint(hundredths), atol=1e-4)
    assert [len(row) for row in GITS.values()] == [n + 1 for n in range(2, 21)]


def test_gits_beyond_its_tables():
    assert sigmas("gits", 1, TABLE) == [pytest.approx(14.61464119), 0]
    np.testing.assert_allclose(sigmas("gits", 40, TABLE)[:40:2], GITS[20][:-1])


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_bong_tangent_is_two_arctangents(steps):
    # RES4LYF's, in stable-diffusion.cpp's terms.
    low, high = TABLE.sigma_min, TABLE.sigma_max
    size = steps + 2
    pivot = int(size * 0.6 + 1e-9)

    def stage(count, pivot, start, end):
        k = np.arange(count)
        f = (2 / np.pi * np.arctan(-0.2 * 40 / size * (k - pivot)) + 1) / 2
        if count == 1:
            return [start]
        return (f - f[-1]) / (f[0] - f[-1]) * (start - end) + end

    middle = low + (high - low) / 2
    expected = np.concatenate(
        [stage(pivot, pivot, high, middle)[:-1], stage(size - pivot, 0, middle, low)]
    )
    expected[-1] = 0
    np.testing.assert_allclose(sigmas("bong_tangent", steps, TABLE), expected)


@pytest.mark.parametrize("steps", [5, 8, 20])
def test_linear_quadratic_is_a_line_and_then_a_parabola(steps):
    gone = 1 - np.array(sigmas("linear_quadratic", steps, TABLE)) / TABLE.sigma_max
    slow = steps // 2
    # Mochi's: half of the steps reach 1/40; the parabola goes on at the same slope.
    np.testing.assert_allclose(gone[: slow + 1], np.linspace(0, 0.025, slow + 1))
    fast = np.arange(steps - slow + 1)
    parabola = np.polyfit(fast, gone[slow:], 2)
    np.testing.assert_allclose(np.polyval(parabola, fast), gone[slow:], atol=1e-9)
    assert parabola[1] == pytest.approx(0.025 / slow)
    assert gone[-1] == 1


def test_linear_quadratic_of_one_step_and_of_two():
    assert sigmas("linear_quadratic", 1, TABLE) == [TABLE.sigma_max, 0]
    levels = sigmas("linear_quadratic", 2, TABLE)
    assert levels == pytest.approx([TABLE.sigma_max, 0.975 * TABLE.sigma_max, 0])


@pytest.mark.parametrize("name", ["flux", "flux2"])
def test_shifted_levels_are_those_of_diffusers(name):
    for pixels, by_steps in GOLDEN[name].items():
        for steps, expected in by_steps.items():
            found = sigmas(name, int(steps), TABLE, pixels=int(pixels))
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_flux_takes_other_shifts():
    # mu is the lower one at 256 pixels; at 2 steps the middle level is its logistic.
    levels = sigmas("flux", 2, TABLE, pixels=256, args={"base_shift": 0.0})
    assert levels == [1, pytest.approx(0.5), 0]
    levels = sigmas("flux", 2, TABLE, pixels=4096, args={"max_shift": 2.0})
    assert levels[1] == pytest.approx(1 / (1 + math.exp(-2)))


@pytest.mark.parametrize("pixels", [1024, 4096, 16384])
@pytest.mark.parametrize("given", [{}, {"mu": -0.5, "std": 1.0}])
def test_logit_normal_levels_are_quantiles(pixels, given):
    levels = sigmas("logit_normal", 20, TABLE, pixels=pixels, args=given)
    mean = given.get("mu", 0.0) + 0.5 * math.log(pixels / 1024)
    normal = NormalDist(mean, given.get("std", 1.75))
    for i, sigma in enumerate(levels[1:-1], start=1):
        below = normal.cdf(math.log(sigma / (1 - sigma)))
        assert below == pytest.approx(1 - i / 20, abs=1e-9)
    assert levels[0] == pytest.approx(1 / (1 + math.exp(-9)))
    lower = sigmas("logit_normal", 20, TABLE, args={"logsnr_max": 12.0})
    assert lower[0] == pytest.approx(1 / (1 + math.exp(-6)))


def test_a_schedule_says_what_it_takes():
    for name, schedule in SCHEDULES.items():
        parameters = inspect.signature(schedule.levels).parameters.values()
        keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        assert keywords == [*schedule.needs, *schedule.args], name


def test_labels_are_those_of_a1111():
    labels = {schedule.label for schedule in SCHEDULES.values()}
    assert len(labels) == len(SCHEDULES)
    assert labels >= {
        *("Karras", "Exponential", "SGM Uniform", "KL Optimal", "Align Your Steps"),
        *("Simple", "Normal", "DDIM", "Beta"),
    }


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_an_error(steps):
    with pytest.raises(ConfigError, match="at least 1"):
        sigmas("discrete", steps, TABLE)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("karras", {"rho": 5.0}, "karras has no argument 'rho'; known: none"),
        ("beta", {"gamma": 1.0}, "beta has no argument 'gamma'; known: alpha, beta"),
        ("beta", {"alpha": 0.0}, "alpha=0 and beta=0.6 must be above 0"),
        ("logit_normal", {"std": -1.0}, "std=-1 must be above 0"),
        ("logit_normal", {"logsnr_min": 18.0}, "logsnr_min=18 does not fall at each"),
        ("flux", {"max_shift": math.nan}, "max_shift=nan: a finite number is needed"),
        ("flux", {"max_shift": 1e6}, r"exp\(1e\+06\) of the noise: must be from"),
        ("logit_normal", {"mu": -1e6, "logsnr_min": -1e7}, "does not fall at each"),
    ],
)
def test_arguments_that_make_no_schedule_are_an_error(name, args, message):
    with pytest.raises(ConfigError, match=message):
        sigmas(name, 20, TABLE, args=args)


@pytest.mark.parametrize(
    "text", ["14.6,7,2.5,0", "[14.6, 7, 2.5, 0.0]", " 14.6,7,2.5,0\n"]
)
def test_sigmas_are_read_with_or_without_brackets(text):
    assert parse_sigmas(text) == [14.6, 7.0, 2.5, 0.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be numbers"),
        ("14.6,x,0", "must be numbers"),
        ("14.6,,0", "must be numbers"),
        ("14.6;7;0", "must be numbers"),
        ("0", "two or more"),
        ("14.6,7", "end in 0"),
        ("7,7,0", "fall at each step"),
        ("2,7,0", "fall at each step"),
        ("7,-1,0", "fall at each step"),
        ("inf,7,0", "fall at each step"),
        ("nan,7,0", "fall at each step"),
        ("7,0,-1", "end in 0"),
        ("1e300,1,0", "sigmas from 1e[+]300: .* 1,000,000 is the most"),
    ],
)
def test_sigmas_that_make_no_schedule_are_an_error(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_sigmas(text)
    assert "\n" not in str(caught.value)
