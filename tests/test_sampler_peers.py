"""Samplers step by step beside k-diffusion, diffusers and their papers' formulas."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import sampler_formulas as formulas
from small_network import COND, guided, noises, start

from mlx_sd.sampling.levels import scaled_linear
from mlx_sd.sampling.samplers import SAMPLERS, walk

with np.load(Path(__file__).parent / "golden/samplers.npz") as _file:
    GOLDEN = dict(_file)
CASES = sorted({key.split("|")[0] for key in GOLDEN})


def ours(name, sigmas, flow=False, **options):
    """(steps, …) latents in float32 MLX, of the network in float64."""
    network = guided if SAMPLERS[name].uncond else COND

    def denoise(x, sigma):
        seen = network(np.array(x, np.float64), sigma)
        return tuple(map(single, seen)) if SAMPLERS[name].uncond else single(seen)

    def single(x):
        return mx.array(np.asarray(x, np.float32))

    supply = iter(noises(40))
    walked = walk(
        name,
        denoise,
        single(start(sigmas[0], flow)),
        list(map(float, sigmas)),
        lambda: single(next(supply)),
        table=scaled_linear(),
        flow=flow,
        **options,
    )
    return np.stack([np.array(step.x) for step in walked])


def assert_same_steps(ours, theirs):
    """Each latent within 1e-5 of its largest number."""
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_k_diffusion_and_diffusers(case):
    name, *words = case.split(" ")
    options = {key: float(value) for key, value in (w.split("=") for w in words)}
    options.pop("steps", None)
    flow = bool(options.pop("flow", 0))
    walked = ours(name, GOLDEN[f"{case}|sigmas"], flow=flow, **options)
    assert_same_steps(walked, GOLDEN[f"{case}|walk"])


KARRAS = GOLDEN["euler|sigmas"]
FLOW = [0.98, 0.9, 0.75, 0.6, 0.4, 0.2, 0.1, 0.0]
OLD = {"variable_order": 2}


@pytest.mark.parametrize(
    ("name", "options", "formula", "same"),
    [
        ("res_multistep", {}, formulas.res_multistep, {}),
        ("res_multistep", {"eta": 0.7}, formulas.res_multistep, {"eta": 0.7}),
        ("res_2s", {}, formulas.res_2s, {}),
        ("res_2s", {"eta": 0.7}, formulas.res_2s, {"eta": 0.7}),
        ("er_sde", {}, formulas.er_sde, {}),
        ("er_sde", {"eta": 0.0}, formulas.er_sde, {"eta": 0.0}),
        ("er_sde", {"flow": True}, formulas.er_sde, {"flow": True}),
        ("euler_ge", {}, formulas.euler_ge, {}),
        ("euler_ge", {"eta": 0.7}, formulas.euler_ge, {"eta": 0.7}),
        ("euler_ge", {"args": {"gamma": 1.5}}, formulas.euler_ge, {"gamma": 1.5}),
        ("euler_cfg_pp", {}, formulas.cfg_pp, {}),
        ("euler_cfg_pp", {"flow": True}, formulas.cfg_pp_flow, {}),
        ("euler_a_cfg_pp", {}, formulas.cfg_pp, {"eta": 1.0}),
        ("ipndm_v", {}, formulas.adams, {}),
        ("ipndm_v", {"args": OLD}, formulas.adams, OLD),
        ("ipndm", {}, formulas.adams, {"variable_order": 0}),
        ("lms", {"args": {"lms_shift": 1}}, formulas.adams, {"shift": 1}),
        ("dpm++2mv2", {}, formulas.dpmpp_2m_v2, {}),
        ("euler_a", {"flow": True}, formulas.euler_a_flow, {}),
        ("euler_a", {"flow": True, "eta": 0.7}, formulas.euler_a_flow, {"eta": 0.7}),
        ("dpm++2s_a", {"flow": True}, formulas.dpmpp_2s_a_flow, {}),
    ],
)
def test_steps_are_those_of_the_formula(name, options, formula, same):
    flow = options.get("flow", False)
    sigmas = FLOW if flow else KARRAS.tolist()
    supply = iter(noises(40))
    network = guided if SAMPLERS[name].uncond else COND
    expected = formula(network, start(sigmas[0], flow), sigmas, supply.__next__, **same)
    assert_same_steps(ours(name, sigmas, **options), expected)


def test_every_sampler_has_a_peer_or_a_formula():
    beside = {case.split(" ")[0] for case in CASES}
    (mark,) = test_steps_are_those_of_the_formula.pytestmark
    beside |= {case[0] for case in mark.args[1]}
    # One is `ddim` by another name, the other draws noise that is its own.
    assert beside == SAMPLERS.keys() - {"ddim_trailing", "dpm++2m_sde_bt"}
