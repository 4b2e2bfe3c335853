"""What a model's files say of its training: the noise, and what the UNet predicts."""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import names
import numpy as np
import pytest
from checkpoints import hollow

from mlx_sd import CheckpointError, ConfigError
from mlx_sd.convert.readers import read_file
from mlx_sd.defaults import defaults
from mlx_sd.opening import DEMO, open_model
from mlx_sd.sampling.prediction import PREDICTIONS
from mlx_sd.source import Source

CONTENTS = names.contents("SD 1.x", "ldm")
KEPT = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
LINEAR = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))  # DDPM's


def source(tmp_path: Path, **markers: mx.array) -> Source:
    """An SD 1.x with these tensors too."""
    if not markers:
        return Source(tmp_path, "x", CONTENTS)
    path = tmp_path / "x.safetensors"
    mx.save_safetensors(str(path), markers)
    return Source(path, "x", replace(CONTENTS, markers=read_file(path)))


def in_folder(tmp_path: Path, **settings) -> Source:
    (tmp_path / "scheduler").mkdir()
    path = tmp_path / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(settings))
    return Source(tmp_path, "x", CONTENTS, tmp_path)


def levels(kept: np.ndarray) -> np.ndarray:
    return np.sqrt((1 - kept) / kept)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_the_usual_noise_is_not_that_of_a_files_rounded_table(tmp_path, dtype):
    found = source(tmp_path, alphas_cumprod=mx.array(KEPT).astype(dtype)).noise
    np.testing.assert_allclose(found.sigmas, levels(KEPT), rtol=1e-9)
    assert found == source(tmp_path).noise


def test_a_files_own_noise_is_used(tmp_path):
    found = source(tmp_path, alphas_cumprod=mx.array(LINEAR)).noise
    # Stored in float32, which shows where almost all is signal.
    np.testing.assert_allclose(found.sigmas, levels(LINEAR), rtol=1e-3)
    assert found.sigma_max == pytest.approx(157.4, abs=0.1)


def test_a_files_table_of_another_length_is_used(tmp_path):
    found = source(tmp_path, alphas_cumprod=mx.array(KEPT[:500])).noise
    assert found.t_max == 499


def zero_snr() -> np.ndarray:
    """Lin et al. 2023, algorithm 1, in float64."""
    root = np.sqrt(KEPT)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def test_a_files_table_may_end_without_signal(tmp_path):
    found = source(tmp_path, alphas_cumprod=mx.array(zero_snr())).noise
    assert found.sigma_max == pytest.approx(4518.76, abs=0.01)
    np.testing.assert_allclose(
        found.sigmas[500], levels(zero_snr()[:-1])[500], rtol=1e-5
    )


@pytest.mark.parametrize("marked", ["tensor", "folder"])
def test_zero_terminal_snr_is_heeded(tmp_path, marked):
    if marked == "tensor":
        found = source(tmp_path, ztsnr=mx.zeros(1)).noise
    else:
        found = in_folder(tmp_path, rescale_betas_zero_snr=True).noise
    np.testing.assert_allclose(found.sigmas[:-1], levels(zero_snr()[:-1]), rtol=1e-6)
    assert found.sigma_max == pytest.approx(4518.76, abs=0.01)


@pytest.mark.parametrize("kept", [[0.5, 0.7], [0.9], [0.9, float("nan")], [2.0, 0.5]])
def test_a_table_that_is_none_is_an_error_naming_the_file(tmp_path, kept):
    with pytest.raises(CheckpointError, match=r"x\.safetensors: alphas_cumprod of"):
        _ = source(tmp_path, alphas_cumprod=mx.array(kept)).noise


BETAS = {
    "linear": (
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        np.linspace(0.0001, 0.02, 1000),
    ),
    "scaled_linear": (
        {"beta_schedule": "scaled_linear", "beta_start": 0.0005, "beta_end": 0.02},
        np.linspace(0.0005**0.5, 0.02**0.5, 1000) ** 2,
    ),
    "fewer": (
        {
            "beta_schedule": "linear",
            "beta_start": 0.001,
            "beta_end": 0.05,
            "num_train_timesteps": 400,
        },
        np.linspace(0.001, 0.05, 400),
    ),
    "squaredcos_cap_v2": (  # Nichol and Dhariwal's, in float64
        {"beta_schedule": "squaredcos_cap_v2", "beta_start": 1e-4, "beta_end": 0.02},
        np.minimum(
            1
            - np.cos((np.arange(1, 1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
            / np.cos((np.arange(1000) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2,
            0.999,
        ),
    ),
    "trained": (
        {"beta_schedule": "linear", "trained_betas": [0.1, 0.2, 0.3]},
        np.array([0.1, 0.2, 0.3]),
    ),
}


@pytest.mark.parametrize("told, betas", BETAS.values(), ids=BETAS.keys())
def test_a_schedulers_betas_are_used(tmp_path, told, betas):
    found = in_folder(tmp_path, **told).noise
    np.testing.assert_allclose(found.sigmas, levels(np.cumprod(1 - betas)), rtol=1e-6)


def test_the_usual_betas_give_the_usual_noise(tmp_path):
    usual = source(tmp_path).noise
    told = {"beta_schedule": "scaled_linear", "trained_betas": None}
    found = in_folder(tmp_path, **told, beta_start=0.00085, beta_end=0.012).noise
    assert found == usual


@pytest.mark.parametrize(
    "told",
    [
        {"beta_schedule": "sigmoid", "beta_start": 0.1, "beta_end": 0.2},
        {"beta_schedule": ["linear"], "beta_start": 0.1, "beta_end": 0.2},
        {"beta_schedule": "linear"},
        {"beta_schedule": "linear", "beta_start": "x", "beta_end": 0.2},
        {"beta_schedule": "linear", "beta_start": 0.1, "beta_end": 1.2},
        {"trained_betas": [0.1, "x"]},
        {"trained_betas": 3},
        {"trained_betas": []},
        {
            "beta_schedule": "linear",
            "beta_start": 0.1,
            "beta_end": 0.2,
            "num_train_timesteps": 10**12,
        },
    ],
)
def test_betas_that_are_none_are_an_error_naming_the_file(tmp_path, told):
    with pytest.raises(CheckpointError, match="its scheduler_config.json"):
        _ = in_folder(tmp_path, **told).noise


def test_levels_of_edm_are_those_of_a_files_tensors(tmp_path):
    low, high = mx.array(0.5), mx.array([90.0])
    bounds = {"edm_vpred.sigma_min": low, "edm_vpred.sigma_max": high}
    found = source(tmp_path, **bounds).levels()
    assert (found.sigma_min, found.sigma_max) == (0.5, 90.0)
    alone = source(tmp_path, **{"edm_vpred.sigma_max": high}).levels()
    assert (alone.sigma_min, alone.sigma_max) == (pytest.approx(0.002), 90.0)
    with pytest.raises(CheckpointError, match="noise levels from 0.002 to 0; they"):
        source(tmp_path, **{"edm_vpred.sigma_max": mx.zeros(1)}).levels()


def test_metadata_says_what_is_predicted_after_tensors(tmp_path):
    told = {"modelspec.prediction_type": "v"}
    assert Source(tmp_path, "x", CONTENTS, metadata=told).prediction is PREDICTIONS["v"]
    marked = source(tmp_path, **{"edm_vpred.sigma_max": mx.ones(1)})
    assert replace(marked, metadata=told).prediction is PREDICTIONS["edm_v"]
    other = replace(marked, metadata={"modelspec.prediction_type": "flow"})
    assert other.prediction is PREDICTIONS["edm_v"]
    unknown = Source(tmp_path, "x", CONTENTS, metadata=other.metadata)
    with pytest.raises(CheckpointError, match="'flow', says its modelspec.prediction"):
        _ = unknown.prediction


def test_metadata_is_read_from_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    told = {"modelspec.prediction_type": "v", "modelspec.title": "a lightning 2 step"}
    hollow(path, names.ldm("SD 2.x"), metadata=told)
    found = open_model(path)
    assert not found.undecided and found.prediction is PREDICTIONS["v"]
    assert defaults(found).steps == 2


def test_a_model_predicts_noise_unless_it_says_otherwise(tmp_path):
    assert source(tmp_path).prediction is PREDICTIONS["eps"]


@pytest.mark.parametrize(
    ("marker", "expected"),
    [("v_pred", "v"), ("edm_vpred.sigma_max", "edm_v"), ("ztsnr", "eps")],
)
def test_a_tensor_may_say_what_is_predicted(tmp_path, marker, expected):
    found = source(tmp_path, **{marker: mx.zeros(1)})
    assert found.prediction is PREDICTIONS[expected]


@pytest.mark.parametrize(("said", "ours"), [("epsilon", "eps"), ("v_prediction", "v")])
def test_a_scheduler_may_say_what_is_predicted(tmp_path, said, ours):
    found = in_folder(tmp_path, prediction_type=said)
    assert found.prediction is PREDICTIONS[ours]


@pytest.mark.parametrize("said", ["sample", ["epsilon"]])
def test_another_prediction_of_a_scheduler_is_an_error(said, tmp_path):
    found = in_folder(tmp_path, prediction_type=said)
    with pytest.raises(CheckpointError, match="predicts .*(sample|epsilon).*--pred"):
        _ = found.prediction
    assert replace(found, told="v").prediction is PREDICTIONS["v"]


def test_the_user_has_the_last_word(tmp_path):
    assert open_model(DEMO, prediction="sd3_flow").prediction.flow
    with pytest.raises(ConfigError, match="unknown prediction 'velocity'"):
        open_model(DEMO, prediction="velocity")


def test_configuration_is_found_once(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("mlx_sd.source.config", lambda part, _: found.append(part))
    source = Source(tmp_path, "x", CONTENTS)
    for _ in range(3):
        source.config("unet")
    assert found == ["unet"]
