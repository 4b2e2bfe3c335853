"""What a model's requests leave open: steps, guidance, sampler, schedule, size.

The values are those of the models' cards and of diffusers' pipelines for them.
"""

import json
from dataclasses import replace
from pathlib import Path

import family_table
import mlx.core as mx
import names
import pytest

import mlx_sd
from mlx_sd.convert.readers import read_file
from mlx_sd.defaults import defaults
from mlx_sd.errors import CheckpointError
from mlx_sd.sampling.samplers import SAMPLERS
from mlx_sd.sampling.schedules import SCHEDULES
from mlx_sd.source import Source

EULER, EULER_A = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"


def single(kind: str, name: str, **metadata: str) -> Source:
    return Source(Path("x"), name, names.contents(kind, "ldm"), metadata=metadata)


def marked(tmp_path: Path, kind: str, **markers: float) -> Source:
    path = tmp_path / "x.safetensors"
    arrays = {name.replace("__", "."): mx.array([v]) for name, v in markers.items()}
    mx.save_safetensors(str(path), arrays)
    contents = names.contents(kind, "ldm")
    return Source(path, "x", replace(contents, markers=read_file(path)))


def folder(
    tmp_path: Path,
    kind: str,
    scheduler: dict,
    *,
    name: str = "x",
    sample: int | None = None,
    index: dict | None = None,
) -> Source:
    for file, told in (
        ("scheduler/scheduler_config.json", scheduler),
        ("unet/config.json", {"sample_size": sample} if sample else {}),
        ("model_index.json", index or {}),
    ):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(told))
    return Source(tmp_path, name, names.contents(kind, "diffusers"), tmp_path)


def found(source: Source) -> tuple:
    usual = defaults(source)
    assert usual.sampling_method in SAMPLERS and usual.scheduler in SCHEDULES
    return (
        usual.label,
        usual.by,
        usual.size,
        usual.steps,
        usual.cfg_scale,
        usual.sampling_method,
        usual.scheduler,
    )


ORDINARY = 20, 7.0, "euler_a", "discrete"  # stable-diffusion.cpp's
SINGLE = {  # kind, file's name → label, size, steps, cfg scale, sampler, schedule
    ("SD 1.x", "v1-5-pruned-emaonly"): ("", 512, *ORDINARY),
    ("SD 2.x", "v2-1_512-ema-pruned"): ("", 512, *ORDINARY),
    ("SDXL", "sd_xl_base_1.0"): ("", 1024, *ORDINARY),
    ("SDXL Refiner", "sd_xl_refiner_1.0"): ("", 1024, *ORDINARY),
    ("SDXL (SSD1B)", "SSD-1B-A1111"): ("", 1024, *ORDINARY),
    ("SD 1.x", "hyperrealism_v3"): ("", 512, *ORDINARY),
    ("SDXL", "HyperRealisticXL"): ("", 1024, *ORDINARY),
    ("SDXL", "turbovision_4step"): ("", 1024, *ORDINARY),
    ("SD 2.x", "sd_turbo"): ("Turbo", 512, 4, 1.0, "euler_a", "simple"),
    ("SDXL", "sd_xl_turbo_1.0_fp16"): ("Turbo", 512, 4, 1.0, "euler_a", "simple"),
    ("SDXL", "dreamshaperXL_v21TurboDPMSDE"): (
        *("Turbo", 1024, 8, 1.0),
        *("euler_a", "simple"),
    ),
    ("SDXL", "sdxl_lightning_4step"): ("Lightning", 1024, 4, 1.0, "euler", "simple"),
    ("SDXL", "juggernautXL_v9Rdphoto2Lightning"): (
        *("Lightning", 1024, 8, 1.0),
        *("euler", "simple"),
    ),
    ("SDXL", "Hyper-SDXL-1step-Unet-Comfyui.fp16"): (
        *("Hyper", 1024, 1, 1.0),
        *("ddim_trailing", "simple"),
    ),
    ("SD 1.x", "realistic_hyper_8steps"): (
        *("Hyper", 512, 8, 1.0),
        *("ddim_trailing", "simple"),
    ),
    ("SD 1.x", "dreamshaper_8LCM"): ("LCM", 512, 4, 1.0, "lcm", "lcm"),
    ("SD 1.x LCM", "x"): ("LCM", 768, 4, 8.5, "lcm", "lcm"),
    ("SDXL LCM", "x"): ("LCM", 1024, 4, 8.5, "lcm", "lcm"),
    ("SDXS (512-DS)", "sdxs"): ("SDXS", 512, 1, 1.0, "euler", "discrete"),
    ("SDXS (09)", "sdxs"): ("SDXS", 512, 1, 1.0, "euler", "discrete"),
}


@pytest.mark.parametrize("kind, name", SINGLE)
def test_a_files_name_or_its_unet_tells_what_it_was_distilled_to(kind, name):
    label, size, steps, scale, sampler, schedule = SINGLE[kind, name]
    by = {"SDXS": "its UNet"}.get(label, "its name" if label else "")
    by = "its UNet's guidance embedding" if kind.endswith("LCM") else by
    expected = (label, by, size, steps, scale, sampler, schedule)
    assert found(single(kind, name)) == expected


def test_a_files_metadata_tells_before_its_name():
    told = {"modelspec.title": "My XL Lightning 4step"}
    source = single("SDXL", "something_turbo", **told)
    assert found(source)[:4] == ("Lightning", "its modelspec.title", 1024, 4)


def trailing(name: str, **more) -> dict:
    return {"_class_name": name, "timestep_spacing": "trailing", **more}


FOLDERS = {  # kind, scheduler, sample size, index → label, told by, size, …
    "sd-turbo": (
        ("SD 2.x", trailing(EULER, prediction_type="epsilon"), 64, {}),
        ("Turbo", "its scheduler_config.json", 512, 4, 1.0, "euler", "simple"),
    ),
    "sdxl-turbo": (
        ("SDXL", trailing(EULER_A, prediction_type="epsilon"), 64, {}),
        ("Turbo", "its scheduler_config.json", 512, 4, 1.0, "euler_a", "simple"),
    ),
    "lightning": (
        ("SDXL", trailing(EULER), 128, {}),
        ("Lightning", "its scheduler_config.json", 1024, 8, 1.0, "euler", "simple"),
    ),
    "trailing SD 1.x": (
        ("SD 1.x", trailing(EULER), 64, {}),
        ("", "", 512, *ORDINARY),
    ),
    "leading": (
        ("SDXL", {"_class_name": EULER, "timestep_spacing": "leading"}, 128, {}),
        ("", "", 1024, *ORDINARY),
    ),
    "LCM_Dreamshaper_v7": (
        ("SD 1.x LCM", {"_class_name": "LCMScheduler"}, 96, {}),
        ("LCM", "its UNet's guidance embedding", 768, 4, 8.5, "lcm", "lcm"),
    ),
    "LCM by scheduler": (
        ("SD 1.x", {"_class_name": "LCMScheduler"}, 64, {}),
        ("LCM", "its scheduler_config.json", 512, 4, 1.0, "lcm", "lcm"),
    ),
    "LCM by pipeline": (
        ("SD 1.x", {}, 64, {"_class_name": "LatentConsistencyModelPipeline"}),
        ("LCM", "its model_index.json", 512, 4, 1.0, "lcm", "lcm"),
    ),
    "copied": (
        ("SDXL", {}, 128, {"_name_or_path": "ByteDance/SDXL-Lightning"}),
        ("Lightning", "its model_index.json", 1024, 8, 1.0, "euler", "simple"),
    ),
    "NoobAI": (
        (
            "SDXL",
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
            *(128, {}),
        ),
        ("zero terminal SNR", "its noise", 1024, 28, 5.0, "euler", "discrete"),
    ),
    "trailing velocity": (
        ("SDXL", trailing(EULER, prediction_type="v_prediction"), 128, {}),
        ("", "", 1024, *ORDINARY),
    ),
    "CosXL": (
        (
            "SDXL",
            {
                "_class_name": "EDMEulerScheduler",
                "prediction_type": "v_prediction",
                "sigma_data": 1.0,
            },
            *(128, {}),
        ),
        ("CosXL", "its noise levels", 1024, 20, 7.0, "euler", "exponential"),
    ),
    "SD 2.1": (
        ("SD 2.x", {"prediction_type": "v_prediction"}, None, {}),
        ("", "", 768, *ORDINARY),
    ),
}


@pytest.mark.parametrize("given, expected", FOLDERS.values(), ids=FOLDERS.keys())
def test_a_folders_settings_tell_what_it_was_distilled_to(tmp_path, given, expected):
    kind, scheduler, sample, index = given
    source = folder(tmp_path, kind, scheduler, sample=sample, index=index)
    assert found(source) == expected


@pytest.mark.parametrize(
    "markers, expected",
    [
        ({"v_pred": 0.0}, ("", "", 1024, *ORDINARY)),
        (
            {"v_pred": 0.0, "ztsnr": 0.0},
            ("zero terminal SNR", "its noise", 1024, 28, 5.0, "euler", "discrete"),
        ),
        (
            {"edm_vpred__sigma_max": 120.0, "edm_vpred__sigma_min": 0.002},
            ("CosXL", "its noise levels", 1024, 20, 7.0, "euler", "exponential"),
        ),
    ],
)
def test_tensors_tell_how_sdxl_was_trained(tmp_path, markers, expected):
    assert found(marked(tmp_path, "SDXL", **markers)) == expected


@pytest.fixture(scope="module")
def turbo():
    """The bundled model, of 128 pixels, under a name that tells of 4 steps."""
    pipeline = mlx_sd.load(dtype="f32")
    pipeline.source.name = "house_turbo_4step"
    return pipeline


def test_a_request_is_resolved_by_the_model_and_options_win(turbo):
    usual = turbo.resolve(mlx_sd.Request("x"))
    assert (usual.width, usual.height, usual.steps, usual.cfg_scale) == (128, 128, 4, 1)
    assert (usual.sampling_method, usual.scheduler) == ("euler_a", "simple")
    given = {"width": 64, "steps": 9, "cfg_scale": 0.0, "sampling_method": "heun"}
    told = turbo.resolve(mlx_sd.Request("x", scheduler="karras", **given))
    assert {name: getattr(told, name) for name in given} == given
    assert told.scheduler == "karras" and told.height == 128
    assert turbo.resolve(told) == told
    other = turbo.resolve(mlx_sd.Request("x", sampling_method="heun"))
    assert other.scheduler == "simple"
    assert turbo.resolve(mlx_sd.Request("x", sampling_method="lcm")).scheduler == "lcm"
    listed = turbo.resolve(mlx_sd.Request("x", sigmas=(9.0, 2.0, 0.0)))
    assert (listed.steps, listed.scheduler) == (2, None)


def test_a_picture_holds_the_values_that_were_used(turbo, tmp_path):
    path = tmp_path / "a.png"
    *_, picture = turbo.stream(mlx_sd.Request("a house", seed=3))
    picture.save(path)
    fields, lost = mlx_sd.metadata.repeat(path)
    assert mlx_sd.Request(**fields).to_dict() == picture.request.to_dict()
    assert not lost and fields["steps"] == 4 and fields["cfg_scale"] == 1.0
    text = picture.parameters
    assert "Steps: 4, Sampler: Euler a, Schedule type: Simple, CFG scale: 1," in text
    *_, again = turbo.stream(mlx_sd.Request(**fields))
    assert again.image.tobytes() == picture.image.tobytes()


@pytest.mark.parametrize("name", ["sd_turbo", "NoobAI-XL-Vpred-v1.0", "cosxl_edit"])
@pytest.mark.parametrize("form", family_table.FORMATS)
def test_a_published_model_is_known_in_every_form(name, form, tmp_path):
    model = family_table.PUBLISHED[name]
    source = family_table.FORMATS[form](tmp_path, name, model)
    assert family_table.fault(source, model) == ""


def test_a_scheduler_of_edm_that_is_not_cosxls_is_an_error(tmp_path):
    told = {"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"}
    with pytest.raises(CheckpointError, match="predicts 'epsilon' at noise levels of"):
        defaults(folder(tmp_path, "SDXL", told))
