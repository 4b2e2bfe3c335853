"""Predictions and noise tables against diffusers and the papers' formulas."""

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.errors import ConfigError
from mlx_sd.sampling.levels import (
    EdmLevels,
    FlowLevels,
    noise_table,
    scaled_linear,
    zero_terminal_snr,
)
from mlx_sd.sampling.prediction import PREDICTIONS

GOLDEN = np.load(Path(__file__).parent / "golden" / "prediction.npz")
TABLE = scaled_linear()
PREDICTION = pytest.mark.parametrize("name", PREDICTIONS)


def golden(name: str, index: int | None = None) -> mx.array:
    """NCHW → NHWC"""
    array = GOLDEN[name] if index is None else GOLDEN[name][index]
    return mx.array(array.transpose(0, 2, 3, 1))


def close(ours, theirs, rtol=1e-5) -> bool:
    return bool(mx.allclose(ours, theirs, rtol=rtol, atol=rtol))


@PREDICTION
@pytest.mark.parametrize("sigma", [0.03, 0.5, 0.999])
def test_a_prediction_is_the_same_in_both_directions(name, sigma):
    prediction = PREDICTIONS[name]
    x0, noise, model = golden("x0"), golden("noise"), golden("model")
    x = prediction.noised(x0, noise, sigma)
    # float32 loses about 1/sigma of its digits where x is nearly x0.
    bound = 1e-6 / sigma
    assert close(prediction.x0(prediction.out(x0, x, sigma), x, sigma), x0, bound)
    assert close(prediction.out(prediction.x0(model, x, sigma), x, sigma), model, bound)
    assert prediction.flow == name.endswith("flow")


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("index", range(3))
def test_diffusion_predicts_as_in_diffusers(kind, index):
    prediction = PREDICTIONS[kind]
    sigma = TABLE.sigma(float(GOLDEN["timesteps"][index]))
    x = prediction.noised(golden("x0"), golden("noise"), sigma)
    # Its noisy latent is what we show the network: x/√(sigma² + 1).
    assert close(prediction.scale_input(x, sigma), golden(f"{kind}_x", index))
    bound = 1e-5 * (1 + sigma)  # x - sigma·out cancels
    assert close(
        prediction.x0(golden("model"), x, sigma), golden(f"{kind}_x0", index), bound
    )
    expected = golden("noise") if kind == "eps" else golden("v_out", index)
    bound = 1e-5 * (1 + 1 / sigma)
    assert close(prediction.out(golden("x0"), x, sigma), expected, bound)


@pytest.mark.parametrize("name", ["sd3_flow", "flux_flow"])
def test_flow_predicts_as_in_diffusers(name):
    prediction = PREDICTIONS[name]
    x = prediction.noised(golden("x0"), golden("noise"), 0.3)
    assert close(x, golden("flow_x"))
    assert mx.array_equal(prediction.scale_input(x, 0.3), x)
    assert close(prediction.x0(golden("model"), x, 0.3), golden("flow_x0"))
    direction = golden("noise") - golden("x0")
    assert close(prediction.out(golden("x0"), x, 0.3), direction)


def test_edm_predicts_velocity():
    # CosXL: Karras et al. 2022, table 1, with sigma_data = 1.
    sigma, x, out = 20.0, golden("x0"), golden("model")
    c_skip, c_out = 1 / (sigma**2 + 1), -sigma / math.sqrt(sigma**2 + 1)
    prediction = PREDICTIONS["edm_v"]
    assert close(prediction.x0(out, x, sigma), c_skip * x + c_out * out)
    assert close(prediction.scale_input(x, sigma), x / math.sqrt(sigma**2 + 1))


def test_schedules_that_go_with_predictions_are_stable_diffusion_cpps():
    own = {name: prediction.scheduler for name, prediction in PREDICTIONS.items()}
    assert own == {
        **dict.fromkeys(("eps", "v", "sd3_flow"), "discrete"),
        "edm_v": "exponential",
        "flux_flow": "flux",
    }


def test_training_noise_is_that_of_the_formula_and_of_diffusers():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    np.testing.assert_allclose(TABLE.sigmas, np.sqrt((1 - kept) / kept), rtol=1e-9)
    np.testing.assert_allclose(TABLE.alphas_cumprod, kept, rtol=1e-9)
    # diffusers' product is in float32, which shows where almost all is signal.
    np.testing.assert_allclose(TABLE.sigmas, GOLDEN["sigmas"], rtol=1e-4)
    # k-diffusion prints these for SD 1.x.
    assert TABLE.sigma_min == pytest.approx(0.0292, abs=5e-5)
    assert TABLE.sigma_max == pytest.approx(14.6146, abs=5e-5)


@pytest.mark.parametrize("t", [0.0, 0.5, 481.3, 998.0, 998.999, 999.0])
@pytest.mark.parametrize("table", [TABLE, zero_terminal_snr(TABLE)])
def test_timestep_and_noise_level_are_inverse(table, t):
    assert table.t(table.sigma(t)) == pytest.approx(t, abs=1e-6)


def test_between_timesteps_the_logarithm_is_linear():
    logs = np.log(TABLE.sigmas)
    for t in (0.25, 481.3, 998.9):
        assert math.log(TABLE.sigma(t)) == pytest.approx(
            np.interp(t, np.arange(1000), logs), abs=1e-12
        )


def test_levels_beyond_the_table_take_its_end():
    assert TABLE.t(1e-4) == 0 and TABLE.t(100) == 999


def test_zero_terminal_snr_is_diffusers_rescaling_of_betas():
    table = zero_terminal_snr(TABLE)
    expected = GOLDEN["zero_snr"]
    np.testing.assert_allclose(table.alphas_cumprod[:-1], expected[:-1], atol=1e-6)
    assert expected[-1] == 0
    # What A1111 and ComfyUI put there instead, for a sigma that is finite.
    assert table.alphas_cumprod[-1] == pytest.approx(4.8973451890853435e-08)
    assert table.sigma_max == pytest.approx(4518.76, abs=0.01)
    assert table.sigma_min == pytest.approx(TABLE.sigma_min)


def test_a_table_follows_from_the_signal_of_each_timestep():
    table = noise_table([0.8, 0.5, 0.2])
    np.testing.assert_allclose(table.sigmas, [0.5, 1, 2])
    assert table.t_max == 2


@pytest.mark.parametrize(
    "kept",
    [[], [0.5], [0.5, 0.5], [0.2, 0.5], [0.9, -0.1], [1.0, 0.5], [0.9, math.nan, 0.1]],
)
def test_a_table_that_does_not_fall_is_an_error(kept):
    with pytest.raises(ConfigError, match=f"alphas_cumprod of {len(kept)} timesteps"):
        noise_table(kept)


@pytest.mark.parametrize("name", ["eps", "v"])
def test_networks_of_a_table_are_told_its_timesteps(name):
    assert PREDICTIONS[name].levels(TABLE) is TABLE


def test_levels_of_edm():
    levels = PREDICTIONS["edm_v"].levels(TABLE)
    assert levels == EdmLevels(0.002, 120.0) and levels.t_max == 999
    assert levels.t(math.exp(2)) == pytest.approx(0.5)
    assert levels.sigma(500) == pytest.approx(math.exp(2))


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.5])
def test_levels_of_sd3_are_those_of_diffusers(shift):
    levels = PREDICTIONS["sd3_flow"].levels(TABLE, shift)
    ours = [levels.sigma(t) for t in range(1000)]
    np.testing.assert_allclose(ours, GOLDEN[f"flow_sigmas_{shift:g}"], rtol=1e-6)
    assert levels.t(0.25) == 250  # as diffusers, which tells it 1000·sigma
    assert (levels.sigma_min, levels.sigma_max) == (ours[0], ours[-1])


@pytest.mark.parametrize("mu", [0.5, 1.15])
def test_levels_of_flux_are_shifted_by_mu(mu):
    levels = PREDICTIONS["flux_flow"].levels(TABLE, mu)
    for t in (0, 400, 998, 999):
        u = (t + 1) / 1000  # black-forest-labs' time_shift, with its sigma of 1
        expected = math.exp(mu) / (math.exp(mu) + (1 / u - 1))
        assert levels.sigma(t) == pytest.approx(expected, rel=1e-12)
    assert levels.t(0.25) == 0.25


@pytest.mark.parametrize("mu", [1000.0, -1000.0, math.nan])
def test_a_shift_of_flux_that_leaves_no_levels_is_an_error(mu):
    with pytest.raises(ConfigError, match="must be from"):
        PREDICTIONS["flux_flow"].levels(TABLE, mu)


def test_the_usual_shifts():
    assert PREDICTIONS["sd3_flow"].levels(TABLE) == FlowLevels(3.0, 1000)
    assert PREDICTIONS["flux_flow"].levels(TABLE).shift == pytest.approx(math.exp(1.15))


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf])
def test_a_shift_must_be_above_0(shift):
    with pytest.raises(ConfigError, match="must be above 0"):
        PREDICTIONS["sd3_flow"].levels(TABLE, shift)
