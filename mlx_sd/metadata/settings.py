"""Settings by A1111's labels ↔ fields of a Request."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import ConfigError
from ..request import Request, effective, typed
from ..sampling.names import resolve_sampler, resolve_scheduler
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES
from .recipe import Recipe

# In A1111's order. What a request lacks, or has as None, is not written.
_LABELS = {
    "Steps": "steps",
    "Sampler": "sampling_method",
    "Schedule type": "scheduler",
    "CFG scale": "cfg_scale",
    "Image CFG scale": "img_cfg_scale",
    "Seed": "seed",
    "Size": "size",
    "Denoising strength": "strength",
    "Clip skip": "clip_skip",
    "RNG": "rng",
    "Sampler RNG": "sampler_rng",
    "Eta": "eta",
    "Extra sample args": "extra_sample_args",
    "Custom Sigmas": "sigmas",
    "Refiner switch at": "refiner_switch",
    "Mask blur": "mask_blur",
    "Mask mode": "invert_mask",
    "Inpaint area": "inpaint_full_res",
    "Masked area padding": "inpaint_full_res_padding",
}
# Fields that are a matter of yes or no → what A1111 writes for that.
_YES = {"invert_mask": "Inpaint not masked", "inpaint_full_res": "Only masked"}
_NO = ("Inpaint masked", "Whole picture")
# A1111 names what draws the numbers; its "GPU" is CUDA as well.
_RNG_LABELS = {"cuda": "NV", "cpu": "CPU"}
_RNGS = {"NV": "cuda", "CPU": "cpu", "GPU": "cuda"}
# Said of the picture, but nothing that a request could repeat.
_SILENT = (
    "Model",
    "Model hash",
    "Refiner",
    "Version",
    "Guidance",
    "Batch size",
    "Batch pos",
)
# What "Automatic" means in A1111, where it is not "Normal".
_AUTOMATIC = {
    "dpm2": "karras",
    "dpm2_a": "karras",
    "dpm++2s_a": "karras",
    "dpm++2m": "karras",
    "dpm++sde": "karras",
    "dpm++2m_sde": "exponential",
    "dpm++3m_sde": "exponential",
}


def written(request: Request) -> dict[str, str]:
    """The settings of a request by A1111's labels, in its order."""
    values = request.settings()
    if request.sampling_method:
        values["sampling_method"] = SAMPLERS[request.sampling_method].label
    if values["scheduler"]:
        values["scheduler"] = SCHEDULES[values["scheduler"]].label
    values["size"] = f"{request.width}x{request.height}"
    if request.init_img is None:
        del values["strength"]
    for name, label in _YES.items():
        values[name] = label if values[name] else None
    values["mask_blur"] = values["mask_blur"] or None
    if not request.inpaint_full_res:
        del values["inpaint_full_res_padding"]
    for rng in ("rng", "sampler_rng"):
        if values.get(rng):
            values[rng] = _RNG_LABELS.get(values[rng], values[rng])
    labels = {label: values.get(name) for label, name in _LABELS.items()}
    return {
        label: text(value) for label, value in labels.items() if value not in (None, "")
    }


def text(value: Any) -> str:
    """A value or a list of them: floats exactly, but whole ones as whole numbers."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_scalar, value))}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    # What is nested may be so without end, and is none of ours.
    return str(value) if isinstance(value, str | int | None) else "…"


def pictures_of(settings: Mapping[str, str]) -> tuple[str, ...]:
    """The fields that A1111's settings say to have held a picture."""
    if "Denoising strength" not in settings or _is_of_hires(settings):
        return ()
    masked = settings.keys() & {"Mask blur", "Mask mode", "Inpaint area"}
    return ("init_img", "mask") if masked else ("init_img",)


def _is_of_hires(settings: Mapping[str, str]) -> bool:
    """Whether a second pass is meant, which starts from the first one's result."""
    return any(label.startswith("Hires ") for label in settings)


def to_request_fields(
    recipe: Recipe, pictures: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """What to give to Request, and what cannot be repeated here, one line each.

    A value that makes no sense, or that Request has no field for, is among the latter;
    whether one is in range is for Request to say. So is what needs one of the recipe's
    pictures.

    Args:
        pictures: fields that hold one, which will be given to Request as well.
    """
    lost = list(recipe.notes)
    found, labels = dict(recipe.exact), {}
    if not found:
        labels = {name: label for label, name in _LABELS.items()}
        found = {"prompt": recipe.prompt, "negative_prompt": recipe.negative_prompt}
        for label, value in recipe.settings.items():
            try:
                found |= _read(label, value, recipe.settings)
            except ConfigError as error:
                lost.append(f"{label}: {error}")
            except (ValueError, KeyError):
                lost.append(_entry(label, value))
    fields = {}
    for name, value in found.items():
        try:
            fields[name] = typed(name, value)
        except ConfigError:
            lost.append(_entry(labels.get(name, name), value))
    kept = effective(fields | dict.fromkeys(pictures, True))
    usual = Request("")
    for name in fields.keys() - kept.keys():
        if name in labels or recipe.pictures and fields[name] != getattr(usual, name):
            lost.append(_entry(labels.get(name, name), fields[name]))
    return {name: value for name, value in fields.items() if name in kept}, lost


def _entry(label: str, value: Any) -> str:
    """One line, however long the value."""
    words = " ".join(text(value).split())
    return f"{label}: {words if len(words) <= 100 else words[:99] + '…'}"


def _read(label: str, value: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """The fields that one setting decides.

    Raises: ValueError, KeyError, ConfigError.
    """
    if label == "Sampler":
        found = _sampling(value, settings.get("Schedule type"))
        if "Custom Sigmas" in settings:
            del found["scheduler"]
        return found
    if label == "Schedule type" and "Sampler" in settings or label in _SILENT:
        return {}
    if label == "Size":
        width, height = value.split("x")
        return {"width": int(width), "height": int(height)}
    if label in ("RNG", "Sampler RNG"):
        value = _RNGS.get(value, value)
    if label == "Eta" and math.isinf(float(value)):
        return {}  # stable-diffusion.cpp's way to say that none was given
    if label not in _LABELS or label == "Denoising strength" and _is_of_hires(settings):
        raise ValueError
    if label == "Custom Sigmas":
        return {"sigmas": json.loads(value)}
    name = _LABELS[label]
    if name in _YES:
        return {} if value in _NO else {name: {_YES[name]: True}[value]}
    return {name: value}


def _sampling(name: str, schedule: str | None) -> dict[str, str]:
    """Sampler and schedule by any program's names; A1111 once wrote both as one."""
    if len(name) > 60:  # no name; it would be all of an error's line
        raise ValueError
    sampler, scheduler = resolve_sampler(name)
    if schedule is not None:
        scheduler = resolve_scheduler(schedule) or scheduler or _AUTOMATIC.get(sampler)
    scheduler = scheduler or SAMPLERS[sampler].scheduler or "discrete"
    return {"sampling_method": sampler, "scheduler": scheduler}
