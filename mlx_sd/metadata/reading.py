"""From a picture's file to what it says of how it was made."""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import SDError
from ..request import PICTURES
from . import comfyui, infotext
from .chunks import Text, texts
from .parameters import JSON_KEY
from .recipe import Metadata, Recipe
from .settings import pictures_of, to_request_fields
from .settings import text as shown

_INFOTEXTS = ("parameters", "UserComment", "sdcpp:parameters")
# What json.loads raises, and then the look at what it gave.
_BROKEN = (ValueError, RecursionError, KeyError, TypeError, AttributeError)


def read(path: str | Path) -> Metadata:
    """Read a PNG, JPEG or WebP file of any of the programs that Recipe names.

    `recipe` is None if the file says nothing of how it was painted.

    Raises: SDError if the file is missing, damaged, or no such picture.
    """
    path = Path(path)
    format, found = texts(path)
    return Metadata(path, format, tuple(found), _recipe(found))


def repeat(
    path: str | Path, pictures: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """What to give to Request to paint a file's picture again; see to_request_fields.

    Args:
        pictures: what will be given beside it: "init_img", "mask", "ref_image".

    Raises: SDError as `read` does, and if the file says nothing that could be repeated.
    """
    recipe = read(path).recipe
    if recipe is None:
        raise SDError(f"{path}: says nothing of how it was painted")
    if not (recipe.prompt or recipe.settings):
        raise SDError(f"{path}: cannot be repeated: {'; '.join(recipe.notes)}")
    return to_request_fields(recipe, pictures)


def _recipe(found: list[Text]) -> Recipe | None:
    for text in found:
        if text.key in _INFOTEXTS:
            info = infotext.parse(text.text)
            # A camera's comment is no prompt; A1111's text may be one alone.
            if info.settings or text.key == "parameters":
                return _of_infotext(info)
    graphs = {text.key: text.text for text in found if text.key in comfyui.KEYS}
    return comfyui.recipe(graphs) if graphs else None


def _of_infotext(info: infotext.Infotext) -> Recipe:
    settings = dict(info.settings)
    version = settings.get("Version", "")
    if JSON_KEY in settings:
        return _ours(info, settings, settings.pop(JSON_KEY))
    if "SDCPP" in settings or version.startswith("stable-diffusion.cpp"):
        return _sdcpp(info, settings, settings.pop("SDCPP", None))
    program = "mlx-sd" if version.startswith("mlx-sd") else "A1111"
    plain = Recipe(program, info.prompt, info.negative_prompt, settings)
    return replace(plain, pictures=pictures_of(settings))


def _ours(info: infotext.Infotext, settings: dict[str, str], text: str) -> Recipe:
    plain = Recipe("mlx-sd", info.prompt, info.negative_prompt, settings)
    try:
        record = json.loads(text)
        prompts = {"prompt": info.prompt, "negative_prompt": info.negative_prompt}
        exact = prompts | record["request"]
        loading = {
            name: value
            for name, value in record["loading"].items()
            if isinstance(value, str | int | float | None)
        }
        pictures = tuple(n for n in record.get("pictures", ()) if n in PICTURES)
    except _BROKEN:
        note = f"{JSON_KEY}: damaged; the settings beside it are used"
        return replace(plain, notes=(note,))
    return _told(replace(plain, loading=loading, pictures=pictures), exact)


def _sdcpp(
    info: infotext.Infotext, settings: dict[str, str], text: str | None
) -> Recipe:
    """stable-diffusion.cpp's, which names "sampler schedule", and -1 for no choice."""
    sampler, _, schedule = settings.pop("Sampler", "").partition(" ")
    settings |= {"Sampler": sampler} if sampler else {}
    settings |= {"Schedule type": schedule} if schedule else {}
    if settings.get("Clip skip") in ("-1", "0"):
        del settings["Clip skip"]
    program = "stable-diffusion.cpp"
    plain = Recipe(program, info.prompt, info.negative_prompt, settings)
    if text is None:
        return plain
    try:
        exact, notes = _sdcpp_fields(json.loads(text))
    except _BROKEN:
        return replace(
            plain, notes=("SDCPP: damaged; the settings beside it are used",)
        )
    return _told(replace(plain, notes=notes), exact)


def _told(recipe: Recipe, exact: dict[str, Any]) -> Recipe:
    """The recipe with what was told exactly, of which prompts are for show as well."""
    prompt, negative = (shown(exact[name]) for name in ("prompt", "negative_prompt"))
    return replace(recipe, exact=exact, prompt=prompt, negative_prompt=negative)


def _sdcpp_fields(record: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Request's fields, and what has none.

    Raises: KeyError, TypeError or AttributeError if a value is missing or misplaced.
    """
    sampling = record["sampling"]
    guidance = sampling["guidance"]
    fields = {
        "prompt": record["prompt"]["positive"],
        "negative_prompt": record["prompt"]["negative"],
        "width": record["width"],
        "height": record["height"],
        "steps": sampling["steps"],
        "cfg_scale": guidance["txt_cfg"],
        "seed": record["seed"],
        "sampling_method": sampling["method"],
        "scheduler": sampling["scheduler"],
        "rng": record["rng"],
    }
    optional = {
        "sampler_rng": record.get("sampler_rng"),
        "eta": sampling.get("eta"),
        "sigmas": sampling.get("custom_sigmas") or None,
        "clip_skip": max(record.get("clip_skip", 0), 0) or None,
        "strength": record.get("strength"),
    }
    fields |= {name: value for name, value in optional.items() if value is not None}
    others = {
        "mode": record.get("mode") not in (None, "img_gen"),
        "loras": bool(record.get("loras")),
        "hires": bool(record.get("hires", {}).get("enabled")),
        "vae_tiling": bool(record.get("vae_tiling", {}).get("enabled")),
        "adetailer": bool(record.get("adetailer")),
        "cache": record.get("cache", {}).get("requested_mode", "")
        not in ("", "disabled"),
        "slg": bool(guidance.get("slg", {}).get("scale")),
        "extra_sample_args": bool(sampling.get("extra_sample_args")),
    }
    return fields, tuple(f"SDCPP {name}" for name, used in others.items() if used)
