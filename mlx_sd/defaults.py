"""What a request may leave open, by kind of model: steps, guidance, sampler, size.

Ordinary models have stable-diffusion.cpp's values. One that was distilled to few
steps, or trained at other noise, paints nothing good with them; it has its authors'.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .sampling.prediction import EdmV, V
from .sampling.samplers import SAMPLERS
from .source import Source
from .training import SCHEDULER


@dataclass(frozen=True)
class Kind:
    label: str  # as users call it; "": an ordinary model
    steps: int
    cfg_scale: float
    sampling_method: str
    scheduler: str | None = None  # None: the sampler's own, or the prediction's
    size: int | None = None  # pixels; None: the family's


ORDINARY = Kind("", steps=20, cfg_scale=7.0, sampling_method="euler_a")
# Values are those of model cards and of the diffusers pipelines written for the kind;
# "simple" is what diffusers calls trailing spacing. Where a name says how many steps a
# model was distilled for, as "4step" does, these replace `steps`.
KINDS: dict[str, Kind] = {
    # Stability's own, for 512 pixels; "turbo" in other names is a merge with them.
    "turbo": Kind("Turbo", 4, 1.0, "euler_a", "simple", size=512),
    "turbo merge": Kind("Turbo", 8, 1.0, "euler_a", "simple"),
    "lightning": Kind("Lightning", 8, 1.0, "euler", "simple"),
    "hyper": Kind("Hyper", 8, 1.0, "ddim_trailing", "simple"),
    "lcm": Kind("LCM", 4, 1.0, "lcm", "lcm"),
    # The guidance is told to the UNet; diffusers' LatentConsistencyModelPipeline.
    "guided lcm": Kind("LCM", 4, 8.5, "lcm", "lcm"),
    "guided lcm of sd1": Kind("LCM", 4, 8.5, "lcm", "lcm", size=768),
    "sdxs": Kind("SDXS", 1, 1.0, "euler", "discrete"),
    "cosxl": Kind("CosXL", 20, 7.0, "euler", "exponential"),
    "ztsnr": Kind("zero terminal SNR", 28, 5.0, "euler", "discrete"),
}
# Words of a name, one after the other, → the kind; the first fit counts.
_WORDS: tuple[tuple[str, str], ...] = (
    (r"^(sdxl|(sd|stable diffusion)( xl)?) turbo\b", "turbo"),
    (r"\blightning\b", "lightning"),
    (r"\bhyper\b(?! real)", "hyper"),
    (r"\blcm\b", "lcm"),
    (r"\bturbo\b", "turbo merge"),
)
_STEPS = r"\b(\d{1,2}) ?steps?\b"
# A scheduler of diffusers → the sampler that it is; others are left to the kind.
_SAMPLERS = {
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}
_LCM = ("LCMScheduler", "LatentConsistencyModelPipeline")
_INDEX = "model_index.json"


@dataclass(frozen=True)
class Defaults:
    """Of one model, with what it was that decided."""

    label: str  # of the Kind
    by: str  # what told the kind; "" for an ordinary model
    steps: int
    cfg_scale: float
    sampling_method: str
    scheduler: str
    size: int  # pixels, width and height

    def __str__(self) -> str:
        return (
            f"{self.size}x{self.size}, {self.steps} steps, cfg scale "
            f"{self.cfg_scale:g}, {self.sampling_method}, {self.scheduler}"
        )


def defaults(source: Source) -> Defaults:
    """What a model's requests leave open; SD 2.x's size while `undecided` is a guess.

    Raises: CheckpointError for a model that does not run.
    """
    name, by = _kind(source) or ("", "")
    kind, scheduler = KINDS.get(name, ORDINARY), source.training.scheduler
    sampler, steps = kind.sampling_method, kind.steps
    if name in ("turbo", "turbo merge", "lightning"):
        sampler = _SAMPLERS.get(str(scheduler.get("_class_name")), sampler)
    if name and (told := _steps_of(source)):
        steps = told
    family = source.family
    usual = family.v_size if source.prediction is V else family.size
    own = SAMPLERS[sampler].scheduler or source.prediction.scheduler
    return Defaults(
        label=kind.label,
        by=by,
        steps=steps,
        cfg_scale=kind.cfg_scale,
        sampling_method=sampler,
        scheduler=kind.scheduler or own,
        size=source.sample_size or kind.size or usual,
    )


def _kind(source: Source) -> tuple[str, str] | None:
    """A key of KINDS and what tells it, surest first; None: an ordinary model."""
    model, scheduler = source.kind, source.training.scheduler
    if source.config("unet").guidance_width is not None:
        sd1 = model.base == "sd1"
        return f"guided lcm{' of sd1' * sd1}", "its UNet's guidance embedding"
    if model.variant == "sdxs":
        return "sdxs", "its UNet"
    for file, settings in ((SCHEDULER, scheduler), (_INDEX, source.settings(_INDEX))):
        if settings.get("_class_name") in _LCM:
            return "lcm", f"its {file}"
    for name, by in _names(source):
        for pattern, kind in _WORDS:
            if re.search(pattern, words(name)):
                return kind, by
    if _is_trailing_euler(scheduler) and model.base in ("sd2", "sdxl"):
        small = (source.sample_size or 0) <= 512
        return "turbo" if small else "lightning", f"its {SCHEDULER}"
    if model.base == "sdxl" and source.prediction is EdmV:
        return "cosxl", "its noise levels"
    if model.base == "sdxl" and source.prediction is V:
        return ("ztsnr", "its noise") if source.training.zero_snr else None
    return None


def _is_trailing_euler(scheduler: Mapping[str, Any]) -> bool:
    """As the folders of SD-Turbo, SDXL-Turbo and SDXL-Lightning have it.

    Models of zero terminal SNR are sampled at trailing timesteps too.
    """
    euler = _SAMPLERS.get(str(scheduler.get("_class_name")), "").startswith("euler")
    noise = scheduler.get("prediction_type", "epsilon") == "epsilon"
    plain = noise and not scheduler.get("rescale_betas_zero_snr")
    return euler and plain and scheduler.get("timestep_spacing") == "trailing"


def _steps_of(source: Source) -> int | None:
    for name, _ in _names(source):
        if found := re.search(_STEPS, words(name)):
            return int(found[1]) or None
    return None


def _names(source: Source) -> Iterator[tuple[str, str]]:
    """What the model is called, and where."""
    index = source.settings(_INDEX).get("_name_or_path")
    for name, by in (
        (source.metadata.get("modelspec.title"), "its modelspec.title"),
        (index, f"its {_INDEX}"),
        (source.name, "its name"),
    ):
        if isinstance(name, str):
            yield name.rsplit("/", 1)[-1], by


def words(name: str) -> str:
    """A name's words in small letters: "realvisXL_v4Lightning" → "realvis xl v 4 …".

    They end at a capital, a digit, or what is neither letter nor digit.
    """
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return " ".join(found).lower()
