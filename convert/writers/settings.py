"""What a diffusers folder says beside its weights, made for a model that has none."""

import logging
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ...errors import CheckpointError
from ...folder import FOLDERS
from ...tokenizers.chunks import CHUNK
from ...tokenizers.clip import BOS, EOS
from ..source import Source
from .components import DIFFUSERS, Json, clip_json, unet_json, vae_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Usual:
    """What weights do not say: as in the folders that its authors published."""

    pipeline: str  # the beginning of its class's name
    size: int  # default width and height, pixels
    scale: float  # of the latents
    scheduler: Json


_NOISE: Json = {
    **DIFFUSERS,
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
_EDM: Json = {  # CosXL's
    **DIFFUSERS,
    "_class_name": "EDMEulerScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_data": 1.0,
    "sigma_min": 0.002,
    "sigma_max": 120.0,
    "sigma_schedule": "exponential",
}
_SD = Usual(
    pipeline="StableDiffusion",
    size=512,
    scale=0.18215,
    scheduler={
        "_class_name": "PNDMScheduler",
        **_NOISE,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
    },
)
_SDXL = Usual(
    pipeline="StableDiffusionXL",
    size=1024,
    scale=0.13025,
    scheduler={
        "_class_name": "EulerDiscreteScheduler",
        **_NOISE,
        "timestep_spacing": "leading",
    },
)
_USUAL = {
    "sd1": _SD,
    "sd2": _SD,
    "sdxl": _SDXL,
    "sdxl_refiner": replace(_SDXL, pipeline="StableDiffusionXLImg2Img"),
}
_TASKS = {"": "", "inpaint": "Inpaint", "edit": "InstructPix2Pix"}
_PADDING = {"clip_l": EOS}  # OpenCLIP's encoders pad with token 0
_TOKEN_0 = "!"


def settings(source: Source) -> dict[str, Json]:
    """Path in the folder → JSON, for a whole model.

    Raises: CheckpointError for a model that diffusers cannot be told of.
    """
    model, config = source.kind, source.config
    if model.task not in _TASKS:
        raise CheckpointError(
            f"{source.path}: diffusers has no pipeline for a {model.name}; write "
            ".safetensors"
        )
    usual = _USUAL[model.base]
    scheduler = _scheduler(source, usual.scheduler)
    found = {
        "unet/config.json": unet_json(config("unet"), usual.size // 8),
        "vae/config.json": vae_json(config("vae"), usual.size, usual.scale),
        "scheduler/scheduler_config.json": scheduler,
    }
    index: Json = {
        "_class_name": f"{usual.pipeline}{_TASKS[model.task]}Pipeline",
        **DIFFUSERS,
        "unet": ("diffusers", "UNet2DConditionModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "scheduler": ("diffusers", scheduler["_class_name"]),
    }
    for part in model.texts:
        folder, tokenizer = FOLDERS[part], tokenizer_folder(part)
        encoder = clip_json(config(part))
        found[f"{folder}/config.json"] = encoder
        found |= _tokenizer(tokenizer, _PADDING.get(part, _TOKEN_0))
        index[folder] = "transformers", encoder["architectures"][0]
        index[tokenizer] = "transformers", "CLIPTokenizer"
    return found | {"model_index.json": index | _WITHOUT[usual.pipeline]}


def _scheduler(source: Source, usual: Json) -> Json:
    """With what the UNet was trained to predict, where markers in the file say so."""
    markers = source.contents.markers
    if "edm_vpred.sigma_max" in markers:
        bounds = {
            bound: np.array(markers[name].read().astype(mx.float32)).item()
            for bound in ("sigma_min", "sigma_max")
            if (name := f"edm_vpred.{bound}") in markers
        }
        return _EDM | bounds
    if source.config("unet").guidance_width is not None:
        usual = {**_NOISE, "_class_name": "LCMScheduler"}
    velocity = "v_pred" in markers
    if source.kind.base == "sd2" and source.folder is None and not velocity:
        log.warning(
            "%s: does not say whether it predicts noise, as is written now, or "
            "velocity, as SD 2.x for 768 pixels does; for that set prediction_type in "
            "scheduler/scheduler_config.json to v_prediction",
            source.path,
        )
    found: Json = {"prediction_type": "v_prediction" if velocity else "epsilon"}
    if "ztsnr" in markers:
        found |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return usual | found


# What the pipelines can do without, and want to be told so.
_NONE = None, None
_WITHOUT: dict[str, Json] = {
    "StableDiffusion": {
        "safety_checker": _NONE,
        "feature_extractor": _NONE,
        "requires_safety_checker": False,
    },
    "StableDiffusionXL": {},
    "StableDiffusionXLImg2Img": {
        "text_encoder": _NONE,
        "tokenizer": _NONE,
        "requires_aesthetics_score": True,
    },
}


def tokenizer_folder(part: str) -> str:
    return FOLDERS[part].replace("text_encoder", "tokenizer")


def _tokenizer(folder: str, padding: str) -> dict[str, Json]:
    tokens = {
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": padding,
        "unk_token": EOS,
    }
    return {
        f"{folder}/special_tokens_map.json": tokens,
        f"{folder}/tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": CHUNK,
            "do_lower_case": True,
            "add_prefix_space": False,
            **tokens,
        },
    }
