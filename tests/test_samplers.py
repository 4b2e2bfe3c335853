"""Samplers where the right answer is known: a mixture of normal distributions."""

import math
from itertools import pairwise

import mixture
import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.errors import ConfigError
from mlx_sd.sampling.levels import FlowLevels, scaled_linear
from mlx_sd.sampling.samplers import SAMPLERS, ancestral, walk
from mlx_sd.sampling.samplers.brownian import BrownianPath
from mlx_sd.sampling.schedules import SCHEDULES, sigmas

TABLE = scaled_linear()
STOCHASTIC = [name for name, sampler in SAMPLERS.items() if sampler.eta is not None]


def steps(name, denoise, x, levels, noise=None, **options):
    """All Steps; a sampler that needs a guided denoiser gets `denoise` twice."""

    def guided(x, sigma):
        return (denoise(x, sigma),) * 2

    chosen = guided if SAMPLERS[name].uncond else denoise
    options.setdefault("table", TABLE)
    return list(walk(name, chosen, x, levels, noise or no_noise, **options))


def no_noise():
    raise AssertionError("a deterministic sampler drew noise")


def deterministic(name: str) -> dict[str, float]:
    return {} if SAMPLERS[name].eta is None else {"eta": 0.0}


def karras(high: float, low: float, count: int) -> list[float]:
    ramp = np.linspace(high ** (1 / 7), low ** (1 / 7), count + 1)
    return (ramp**7).tolist()


# A multistep sampler of higher order starts with lower ones: at a level where the slope
# hardly changes, so that the start does not count.
ORDERS = {
    "euler": 1,
    "euler_a": 1,
    "euler_cfg_pp": 1,
    "euler_a_cfg_pp": 1,
    "euler_ge": 1,
    "ddim": 1,
    "ddim_trailing": 1,
    "tcd": 1,
    "heun": 2,
    "dpm2": 2,
    "dpm2_a": 2,
    "dpm++2s_a": 2,
    "dpm++sde": 2,
    "dpm++2m": 2,
    "dpm++2mv2": 1,
    "dpm++2m_sde": 2,
    "dpm++2m_sde_bt": 2,
    "dpm++3m_sde": 2,  # its parabola has half the weight that order 3 asks for
    "res_multistep": 2,
    "res_2s": 2,
    "er_sde": 2,  # its first difference is not moved to the end of the stretch
    "unipc": 4,  # order 3, and one more by its corrector
    "ipndm_v": 4,
    "lms": 4,
}
EVEN_ORDERS = {"ipndm": 4, "plms": 4, "lms": 4, "ipndm_v": 4}  # even in sigma


def fitted_order(name: str, grid, counts, high: float, low: float) -> float:
    """How fast the error falls as steps are added, by a line through its logarithm.

    It is taken at `low`, two steps before the end, where some lower their order.
    """
    x = np.linspace(-2, 2, 41) * high
    exact = mixture.transport(x, high, low)
    errors = []
    for count in counts:
        levels = [*grid(high, low, count), low * 0.9, low * 0.8]
        walked = steps(name, mixture.denoise, x, levels, **deterministic(name))
        errors.append(np.sqrt(np.mean((walked[count - 1].x - exact) ** 2)))
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_sampler_converges_at_its_order(name, order):
    found = fitted_order(name, karras, [96, 128, 192, 256], 40.0, 0.5)
    assert found == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize(("name", "order"), EVEN_ORDERS.items())
def test_multistep_sampler_converges_where_levels_are_even(name, order):
    def even(high, low, count):
        return np.linspace(high, low, count + 1).tolist()

    found = fitted_order(name, even, [384, 512, 768], 20.0, 0.8)
    assert found == pytest.approx(order, abs=0.3)


def test_every_sampler_without_noise_has_an_order():
    assert ORDERS.keys() | EVEN_ORDERS.keys() == SAMPLERS.keys() - {"lcm"}


COUNT = 10_000
# Twice the 1-in-1500 distance of a perfect sample: steps add their own error.
FAR = 4 / math.sqrt(COUNT)


def assert_right(samples):
    samples = np.asarray(samples)
    mean = mixture.WEIGHTS @ mixture.MEANS
    variance = mixture.WEIGHTS @ (mixture.SPREADS**2 + mixture.MEANS**2) - mean**2
    assert abs(samples.mean() - mean) < 5 * math.sqrt(variance / COUNT)
    assert samples.var() == pytest.approx(variance, rel=0.04)
    assert mixture.distance(samples) < FAR


def normal(seed: int):
    rng = np.random.default_rng(seed)
    return lambda: rng.normal(size=COUNT)


def in_mlx(denoise):
    return lambda x, sigma: mx.array(denoise(np.array(x), sigma))


# A first-order step takes a bite of the variance, as do dpm++sde's two draws: more of
# them are needed.
STEPS = {n: 300 if ORDERS[n] == 1 or n == "dpm++sde" else 100 for n in STOCHASTIC}


@pytest.mark.parametrize("flow", [False, True], ids=["", "flow"])
@pytest.mark.parametrize("name", [n for n in STOCHASTIC if n != "tcd"])
def test_noise_keeps_the_distribution(name, flow):
    noise, count = normal(STOCHASTIC.index(name)), STEPS[name]
    if flow:
        levels = [*np.linspace(1.0, 0.005, count).tolist(), 0.0]
        x, denoise = noise(), mixture.denoise_flow
    else:
        levels = [*karras(20.0, 0.02, count), 0.0]
        data = mixture.draw(COUNT, np.random.default_rng(1))
        x, denoise = data + levels[0] * noise(), mixture.denoise
    if name == "dpm++2m_sde_bt":  # its own noise is MLX's
        x, denoise = mx.array(x), in_mlx(denoise)
    last = steps(name, denoise, x, levels, noise, eta=1.0, flow=flow, seed=3)[-1]
    assert_right(last.x)


# tcd is not for flows, and euler_ge's extrapolation takes noise for a trend.
SPLITTING = [(n, f) for n in [*STOCHASTIC, "lcm"] for f in (False, True)]
SPLITTING = [(n, f) for n, f in SPLITTING if n != "euler_ge" and (n, f) != ("tcd", 1)]


@pytest.mark.parametrize(("name", "flow"), SPLITTING)
def test_noise_is_as_strong_as_the_level_says(name, flow):
    # Data of one point: each step is exact, however few, and each split with it.
    noise = normal(STOCHASTIC.index(name) if name in STOCHASTIC else 99)
    levels = [1.0, 0.8, 0.5, 0.1, 0.0] if flow else [14.6, 6.0, 1.5, 0.2, 0.0]
    part = (1 - levels[0]) if flow else 1.0
    x, point = part * 0.4 + levels[0] * noise(), np.full(COUNT, 0.4)
    options = {} if name == "lcm" else {"eta": 0.7}
    if name == "dpm++2m_sde_bt":
        x, point = mx.array(x), mx.array(point)
    walked = steps(name, lambda x, s: point, x, levels, noise, flow=flow, **options)
    for step, target in zip(walked[:-1], levels[1:], strict=False):
        left = np.asarray(step.x) - 0.4 * ((1 - target) if flow else 1)
        assert abs(left.mean()) < 5 * target / math.sqrt(COUNT)
        assert left.std() == pytest.approx(target, rel=5 / math.sqrt(2 * COUNT))


@pytest.mark.parametrize(
    "name", [n for n in STOCHASTIC if n not in ("tcd", "euler_ge") and "sde" not in n]
)
def test_noise_of_a_split_is_never_stronger_than_the_level(name):
    # Splits whose lower part is 0, so that all of the next level's noise is fresh.
    noise, levels = normal(5), [14.6, 6.0, 1.5, 0.0]
    x, point = levels[0] * noise(), np.zeros(COUNT)
    walked = steps(name, lambda x, s: point, x, levels, noise, eta=9.0)
    for step, target in zip(walked[:-1], levels[1:], strict=False):
        assert np.std(step.x) == pytest.approx(target, rel=5 / math.sqrt(2 * COUNT))


def test_consistency_sampling_keeps_the_distribution():
    # What such a model learns is the end of the probability flow.
    noise, levels = normal(0), sigmas("discrete", 4, TABLE)
    x = mixture.draw(COUNT, np.random.default_rng(1)) + levels[0] * noise()
    assert_right(steps("lcm", mixture.transport, x, levels, noise)[-1].x)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("flow", [False, True])
def test_ancestral_split_adds_up_to_the_target(eta, flow):
    split = ancestral(0.9, 0.6, eta, flow)
    assert math.hypot(split.down * split.scale, split.up) == pytest.approx(0.6)
    assert (split.up == 0) == (eta == 0)
    if flow:  # and so does the data's part
        assert (1 - split.down) * split.scale == pytest.approx(0.4)


def point(x, sigma):
    return x * (1 / (1 + sigma**2))


# Some take the line to 0 that earlier slopes give, and tcd stops at timestep 0.
INEXACT = {"ipndm", "ipndm_v", "plms", "lms", "tcd"}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("count", [1, 2, 6])
def test_sampler_yields_every_step_and_ends_on_the_prediction(name, count):
    levels = sigmas("discrete", count, TABLE)
    x = mx.random.normal((1, 2, 2, 4), key=mx.random.key(0)) * levels[0]
    walked = steps(name, point, x, levels, lambda: mx.ones_like(x))
    assert [step.index for step in walked] == list(range(count))
    assert [step.sigma for step in walked] == levels[:-1]
    assert all(s.x.shape == x.shape and s.x.dtype == mx.float32 for s in walked)
    close = mx.allclose(walked[-1].x, walked[-1].denoised, atol=1e-6).item()
    assert close or name in INEXACT and mx.isfinite(walked[-1].x).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_is_denoised_before_a_step_is_asked_for(name):
    def denoise(x, sigma):
        raise AssertionError("denoised")

    walk(name, denoise, mx.zeros(4), [2.0, 1.0, 0.0], no_noise, table=TABLE)


@pytest.mark.parametrize("name", SAMPLERS)
def test_default_schedule_is_one_that_exists(name):
    assert SAMPLERS[name].scheduler in {None, *SCHEDULES}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("euler", {"eta": 1.0}, "euler takes no eta"),
        ("euler_a", {"eta": -0.1}, "takes one from 0"),
        ("euler_a", {"eta": math.nan}, "takes one from 0"),
        ("euler_a", {"eta": 1.1, "flow": True}, "from 0 to 1"),
        ("tcd", {"eta": 1.1}, "from 0 to 1"),
        ("heun", {"args": {"gamma": 2.0}}, "no argument 'gamma'; known: none"),
        ("lcm", {"args": {"gamma": 2.0}}, "noise_clip_std, noise_scale_end"),
        ("euler_ge", {"args": {"gamma": math.inf}}, "finite"),
        ("lms", {"args": {"lms_max_order": 0}}, "lms_max_order=0: a whole number"),
        ("lms", {"args": {"lms_max_order": 2.5}}, "lms_max_order=2.5: a whole"),
        ("lms", {"args": {"lms_shift": -1}}, "lms_shift=-1: a whole number from 0"),
        ("tcd", {"table": FlowLevels(shift=1.0, told=1.0)}, "only models of eps and v"),
    ],
)
def test_wrong_option_is_an_error_that_says_what_is_known(name, options, message):
    with pytest.raises(ConfigError, match=message):
        steps(name, point, mx.zeros(4), [1.0, 0.0], **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("er_sde", {"eta": 1e5}),
        ("lms", {"args": {"lms_max_order": 1e300}}),
    ],
)
def test_a_step_from_the_most_noise_is_finite(name, options):
    def noise():
        return mx.ones(4)

    last = steps(name, point, mx.ones(4), [1e6, 7.0, 1.0, 0.0], noise, **options)[-1]
    assert mx.isfinite(last.x).all()


def test_lcm_noise_is_cut_and_scaled():
    z = mx.random.normal((1000,), key=mx.random.key(1))
    args = {"noise_clip_std": 1.0, "noise_scale_start": 0.5, "noise_scale_end": 0.25}
    zero, levels = mx.zeros(1000), [4.0, 3.0, 2.0, 0.0]
    first, second, _ = steps("lcm", lambda x, s: zero, z, levels, lambda: z, args=args)
    cut = np.clip(np.array(z), -np.array(z).std(), np.array(z).std())
    np.testing.assert_allclose(np.array(first.x), cut * 3 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(np.array(second.x), cut * 2 * 0.375, rtol=1e-5)
    del args["noise_scale_end"]
    _, second, _ = steps("lcm", lambda x, s: zero, z, levels, lambda: z, args=args)
    np.testing.assert_allclose(np.array(second.x), cut * 2 * 0.5, rtol=1e-5)


def rise(seed, low, high):
    return np.array(BrownianPath(seed, (COUNT,)).between(low, high))


def test_brownian_path_is_a_function_of_seed_and_level():
    levels = [0.03, 0.1, 2.0, 14.6]
    pieces = [math.sqrt(b - a) * rise(5, a, b) for a, b in pairwise(levels)]
    whole = math.sqrt(14.6 - 0.03) * rise(5, 0.03, 14.6)
    np.testing.assert_allclose(sum(pieces), whole, atol=1e-3)
    assert not np.allclose(rise(5, 0.1, 2.0), rise(6, 0.1, 2.0))


def test_brownian_rises_are_unit_noise_and_independent():
    rises = [rise(5, a, b) for a, b in pairwise([0.029, 0.03, 0.1, 2.0, 2.1, 14.6])]
    near = 5 / math.sqrt(COUNT)
    np.testing.assert_allclose(np.cov(rises), np.eye(5), atol=near * math.sqrt(2))
    assert np.abs(np.mean(rises, axis=1)).max() < near


def test_brownian_tree_paints_the_same_with_more_steps():
    x = mx.array(20 * normal(0)())
    ends = [
        steps(
            "dpm++2m_sde_bt",
            in_mlx(mixture.denoise),
            x,
            [*karras(20.0, 0.03, n), 0.0],
            seed=7,
        )[-1].x
        for n in (40, 80)
    ]
    assert np.corrcoef(np.array(ends))[0, 1] > 0.97
