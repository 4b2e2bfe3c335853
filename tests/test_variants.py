"""What a UNet is told beside its prompt, against diffusers' pipelines, and two stages.

See golden/make_variants.py for what the files hold.
"""

import json
from dataclasses import replace
from pathlib import Path

import make_pictures
import numpy as np
import pytest
import small_families
from small_families import (
    CFG,
    CROP,
    EDM_STEPS,
    HEIGHT,
    LCM_STEPS,
    NEGATIVE,
    ORIGINAL,
    PROMPT,
    SEED,
    SIGMAS,
    STEPS,
    SWITCH,
    TARGET,
    WIDTH,
)

import mlx_sd
from mlx_sd.errors import ConfigError
from mlx_sd.nn.embed import guidance_embedding

REQUEST = mlx_sd.Request(
    PROMPT,
    NEGATIVE,
    WIDTH,
    HEIGHT,
    STEPS,
    CFG,
    SEED,
    sampling_method="euler",
)


def golden(case: str):
    return np.load(Path(__file__).parent / f"golden/variant_{case}.npz")


def folder(path: Path, kind: str, **scheduler) -> Path:
    small_families.write_folder(path, small_families.shapes(kind))
    told = path / "scheduler/scheduler_config.json"
    told.write_text(json.dumps({"prediction_type": "epsilon", **scheduler}))
    return path


def check(pipeline: mlx_sd.Pipeline, request: mlx_sd.Request, case: str) -> None:
    """The last latent and the picture are those of a golden file."""
    expected, latents = golden(case), []
    (image,) = pipeline(request, lambda progress: latents.append(progress.latent))
    latent = expected["latent"].transpose(0, 2, 3, 1)
    error = np.linalg.norm(np.array(latents[-1]) - latent) / np.linalg.norm(latent)
    assert error < 1e-3  # after steps that each magnify what rounding left
    assert make_pictures.psnr(np.asarray(image), expected["picture"]) >= 50


def test_a_guidance_is_embedded_as_diffusers_does():
    found = guidance_embedding(8.5, 256)
    # Diffusers' angles, of up to 7500, are float32, which is 5e-4 there.
    np.testing.assert_allclose(np.array(found), golden("lcm")["told"], atol=1e-3)


@pytest.mark.slow
def test_an_lcm_is_told_its_guidance(tmp_path, caplog):
    pipeline = mlx_sd.load(folder(tmp_path / "x", "SD 1.x LCM"), dtype="f32")
    request = replace(REQUEST, steps=None, cfg_scale=None, sampling_method=None)
    usual = pipeline.resolve(request)
    assert (usual.steps, usual.cfg_scale) == (LCM_STEPS, 8.5)
    assert (usual.sampling_method, usual.scheduler) == ("lcm", "lcm")
    check(pipeline, replace(request, negative_prompt="", rng="cpu"), "lcm")
    assert not caplog.records
    *_, other = pipeline.stream(replace(request, cfg_scale=3.0, rng="cpu"))
    assert "takes no negative prompt" in caplog.text
    psnr = make_pictures.psnr(np.asarray(other.image), golden("lcm")["picture"])
    assert psnr < 50


@pytest.mark.slow
def test_sdxl_is_told_the_sizes_of_a_request(tmp_path):
    pipeline = mlx_sd.load(folder(tmp_path / "x", "SDXL"), dtype="f32")
    changes = ({"original_size": ORIGINAL}, {"crop": CROP}, {"target_size": TARGET})
    for change, numbers in zip(({}, *changes), golden("sizes")["vectors"], strict=True):
        prompts = pipeline.prompts(pipeline.resolve(replace(REQUEST, **change)))
        angles = numbers[:, None] * 10_000 ** (-np.arange(128) / 128)
        waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).reshape(-1)
        for text in (prompts.conds(0)[0][0], prompts.uncond(0)):
            found = np.array(text.vector)[0, 1280:]
            np.testing.assert_allclose(found, waves, atol=1e-4)
    every = {name: pair for change in changes for name, pair in change.items()}
    check(pipeline, replace(REQUEST, **every), "sizes")


@pytest.mark.slow
def test_levels_of_edm_are_those_of_the_folders_scheduler(tmp_path):
    low, high = SIGMAS
    told = {
        "_class_name": "EDMEulerScheduler",
        "prediction_type": "v_prediction",
        "sigma_min": low,
        "sigma_max": high,
        "sigma_data": 1.0,
    }
    pipeline = mlx_sd.load(folder(tmp_path / "x", "SDXL", **told), dtype="f32")
    assert pipeline.resolve(REQUEST).scheduler == "exponential"
    check(pipeline, replace(REQUEST, steps=EDM_STEPS), "edm")


@pytest.mark.slow
def test_a_refiner_goes_on_where_the_base_ends(tmp_path):
    base = folder(tmp_path / "base", "SDXL")
    refiner = folder(tmp_path / "refiner", "SDXL Refiner")
    pipeline = mlx_sd.load(base, dtype="f32", refiner=refiner)
    check(pipeline, replace(REQUEST, refiner_switch=SWITCH), "two_stages")


@pytest.mark.parametrize("name", ["original_size", "crop", "target_size"])
def test_sizes_for_a_model_that_is_not_told_them_are_an_error(name):
    with pytest.raises(ConfigError, match=f"{name}: picture-book is not told of it"):
        mlx_sd.load().resolve(mlx_sd.Request("x", **{name: (64, 64)}))


@pytest.mark.parametrize(
    "name, pair, least",
    [
        ("original_size", (0, 5), 1),
        ("crop", (-1, 5), 0),
        ("target_size", (5, 5, 5), 1),
        ("target_size", (5, 1 << 20), 1),
    ],
)
def test_sizes_out_of_range_are_an_error(name, pair, least):
    with pytest.raises(ConfigError, match=f"{name} .*two numbers from {least} to"):
        mlx_sd.Request("x", **{name: pair})


def test_sizes_survive_json():
    request = mlx_sd.Request("x", original_size=(5, 7), crop=(0, 1), target_size=(2, 3))
    again = json.loads(json.dumps(request.to_dict()))
    assert mlx_sd.Request(**again) == request
