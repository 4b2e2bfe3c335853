"""Models of every family, as published, and what is decided of them.

Run: python tests/family_table.py

Each is made as a single file, a diffusers folder and separate parts, hollow but of real
size, with the markers, settings and names that its authors gave it. What we decide has
to be the same in each, and what its authors say. The files of SD 2.x are the exception:
they do not say what the UNet predicts, which is seen only once it runs.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import names
import numpy as np
from checkpoints import hollow

from mlx_sd.defaults import defaults
from mlx_sd.opening import OPTIONS, open_source
from mlx_sd.sampling.prediction import PREDICTIONS
from mlx_sd.source import Source

NOISE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "trained_betas": None,
    "num_train_timesteps": 1000,
}
EPS, V = {"prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}
PNDM = {"_class_name": "PNDMScheduler", **NOISE, **EPS}
LEADING = {
    "_class_name": "EulerDiscreteScheduler",
    **NOISE,
    **EPS,
    "timestep_spacing": "leading",
}
TRAILING = {**LEADING, "timestep_spacing": "trailing"}
LCM = {"_class_name": "LCMScheduler", **NOISE, **EPS}
EDM = {
    "_class_name": "EDMEulerScheduler",
    **V,
    "sigma_data": 1.0,
    "sigma_min": 0.002,
    "sigma_max": 120.0,
}
ORDINARY = 20, 7.0, "euler_a", "discrete"


@dataclass(frozen=True)
class Published:
    kind: str  # a key of names.KINDS or names.LCM
    size: int
    # Steps, cfg scale, sampler, schedule.
    usual: tuple[int, float, str, str] = ORDINARY
    predicts: str = "eps"  # a key of PREDICTIONS
    scheduler: dict = field(default_factory=lambda: PNDM)
    markers: dict[str, np.ndarray] = field(default_factory=dict)
    label: str = ""


EMPTY = np.zeros(0, np.float32)
BOUNDS = {
    "edm_vpred.sigma_max": np.float32([120.0]),
    "edm_vpred.sigma_min": np.float32([0.002]),
}
COSXL = {"predicts": "edm_v", "scheduler": EDM, "markers": BOUNDS, "label": "CosXL"}
XL = {"scheduler": LEADING}
PUBLISHED = {
    "v1-5-pruned-emaonly": Published("SD 1.x", 512),
    "v2-1_512-ema-pruned": Published("SD 2.x", 512),
    "v2-1_768-ema-pruned": Published(
        "SD 2.x", 768, predicts="v", scheduler={**PNDM, **V}
    ),
    "sd_turbo": Published(
        "SD 2.x",
        512,
        (4, 1.0, "euler", "simple"),
        scheduler=TRAILING,
        label="Turbo",
    ),
    "sd_xl_base_1.0": Published("SDXL", 1024, **XL),
    "sd_xl_refiner_1.0": Published("SDXL Refiner", 1024, **XL),
    "sd_xl_turbo_1.0_fp16": Published(
        "SDXL",
        512,
        (4, 1.0, "euler_a", "simple"),
        scheduler={**TRAILING, "_class_name": "EulerAncestralDiscreteScheduler"},
        label="Turbo",
    ),
    "sdxl_lightning_4step": Published(
        "SDXL",
        1024,
        (4, 1.0, "euler", "simple"),
        scheduler=TRAILING,
        label="Lightning",
    ),
    "Hyper-SDXL-8steps": Published(
        "SDXL", 1024, (8, 1.0, "ddim_trailing", "simple"), **XL, label="Hyper"
    ),
    "LCM_Dreamshaper_v7_4k": Published(
        "SD 1.x LCM", 768, (4, 8.5, "lcm", "lcm"), scheduler=LCM, label="LCM"
    ),
    "lcm-sdxl": Published(
        "SDXL LCM", 1024, (4, 8.5, "lcm", "lcm"), scheduler=LCM, label="LCM"
    ),
    "NoobAI-XL-Vpred-v1.0": Published(
        "SDXL",
        1024,
        (28, 5.0, "euler", "discrete"),
        "v",
        {**LEADING, **V, "rescale_betas_zero_snr": True},
        {"v_pred": EMPTY, "ztsnr": EMPTY},
        "zero terminal SNR",
    ),
    "cosxl": Published("SDXL", 1024, (20, 7.0, "euler", "exponential"), **COSXL),
    "cosxl_edit": Published(
        "SDXL Instruct-Pix2Pix", 1024, (20, 7.0, "euler", "exponential"), **COSXL
    ),
    "sd-v1-5-inpainting": Published("SD 1.x Inpaint", 512),
    "512-inpainting-ema": Published("SD 2.x Inpaint", 512),
    "stable-diffusion-xl-1.0-inpainting-0.1": Published("SDXL Inpaint", 1024, **XL),
    "instruct-pix2pix-00-22000": Published("Instruct-Pix2Pix", 512),
    "sdxl-instructpix2pix-768": Published("SDXL Instruct-Pix2Pix", 1024, **XL),
    "SSD-1B": Published("SDXL (SSD1B)", 1024, **XL),
    "segmind-vega": Published("SDXL (Vega)", 1024, **XL),
    "bk-sdm-base": Published("SD 1.x (BK-SDM Base)", 512),
    "bk-sdm-small": Published("SD 1.x (BK-SDM Small)", 512),
    "tiny-sd": Published("SD 1.x Tiny UNet", 512),
    "bk-sdm-v2-small": Published("SD 2.x (BK-SDM Small)", 512),
    "bk-sdm-v2-tiny": Published("SD 2.x Tiny UNet", 512),
    "sdxs-512-dreamshaper": Published(
        "SDXS (512-DS)", 512, (1, 1.0, "euler", "discrete"), label="SDXS"
    ),
    "sdxs-512-0.9": Published(
        "SDXS (09)", 512, (1, 1.0, "euler", "discrete"), label="SDXS"
    ),
}


def single(folder: Path, name: str, model: Published) -> Source:
    shapes = names.ldm(model.kind)
    path = hollow(folder / f"{name}.safetensors", shapes, values=model.markers)
    return open_source(path)


def diffusers(folder: Path, name: str, model: Published) -> Source:
    path = folder / name
    for part, shapes in names.diffusers(model.kind).items():
        inside = path / names.FOLDERS[part]
        inside.mkdir(parents=True)
        stem = "diffusion_pytorch_model" if part in ("unet", "vae") else "model"
        hollow(inside / f"{stem}.safetensors", shapes)
    (path / "scheduler").mkdir()
    told = json.dumps(model.scheduler)
    (path / "scheduler/scheduler_config.json").write_text(told)
    sample = json.dumps({"sample_size": model.size // 8})
    (path / "unet/config.json").write_text(sample)
    return open_source(path)


def separate(folder: Path, name: str, model: Published) -> Source:
    options = {part: option for option, part in OPTIONS.items()} | {"clip_h": "clip_l"}
    files = {}
    for part, shapes in names.diffusers(model.kind).items():
        stem, values = (name, model.markers) if part == "unet" else (part, {})
        path = folder / f"{stem}.safetensors"
        files[options[part]] = hollow(path, shapes, values=values)
    return open_source(**files)


FORMATS: dict[str, Callable[[Path, str, Published], Source]] = {
    "single file": single,
    "folder": diffusers,
    "parts": separate,
}


def fault(source: Source, model: Published) -> str:
    """What is decided otherwise than its authors say; "" if nothing."""
    source.check()
    if source.undecided:  # then its size is open too
        source.told = model.predicts
    usual, predicts = asdict(defaults(source)), PREDICTIONS[model.predicts]
    keys = "steps", "cfg_scale", "sampling_method", "scheduler"
    expected = dict(zip(keys, model.usual, strict=True))
    expected |= {"size": model.size, "label": model.label}
    if model.label == "Turbo":  # which of the two Eulers only the folder says
        usual["sampling_method"] = expected["sampling_method"][:5]
        expected["sampling_method"] = expected["sampling_method"][:5]
    wrong = [f"{key} {usual[key]}" for key in expected if usual[key] != expected[key]]
    wrong += [] if source.prediction is predicts else [source.prediction.__name__]
    kind = model.kind.removesuffix(" LCM")
    wrong += [] if source.kind.name == kind else [f"taken for {source.kind.name}"]
    return ", ".join(wrong)


def main() -> None:
    print("| model | kind | size | steps, cfg scale, sampler, schedule | predicts |")
    print("|---|---|---|---|---|")
    failed = False
    for name, model in PUBLISHED.items():
        for write in FORMATS.values():
            with tempfile.TemporaryDirectory() as folder:
                if wrong := fault(write(Path(folder), name, model), model):
                    print(f"{name}, {write.__name__}: {wrong}", file=sys.stderr)
                    failed = True
        label = f"{model.kind.removesuffix(' LCM')}{', ' * bool(model.label)}"
        steps, scale, sampler, schedule = model.usual
        print(
            f"| {name} | {label}{model.label} | {model.size} "
            f"| {steps}, {scale:g}, {sampler}, {schedule} | {model.predicts} |",
            flush=True,
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
