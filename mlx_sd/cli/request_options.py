"""The options of a picture: flags of stable-diffusion.cpp ↔ fields of a Request."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..caching import CACHES
from ..errors import ConfigError, SDError
from ..request import Request
from ..sampling.noise import RNGS
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES, parse_sigmas
from .options import joined

_DEFAULT = Request(prompt="")


class Pixels(click.ParamType):
    """ "1024x768", across first, as a Request has it: (768, 1024)."""

    name = "pixels"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if found := re.fullmatch(r"(\d{1,6})x(\d{1,6})", value):
            return int(found[2]), int(found[1])
        self.fail(f"{value!r:.50} is not two numbers, such as 1024x768", param, ctx)


PIXELS = Pixels()

# flags, type, field, help
_FLAGS: tuple[tuple[tuple[str, ...], type | Pixels, str], ...] = (
    (("-p", "--prompt"), str, "What to paint."),
    (("-n", "--negative-prompt"), str, "What to keep away from."),
    (("-W", "--width"), int, "Pixels.  [default: the model's size]"),
    (("-H", "--height"), int, "Pixels.  [default: the model's size]"),
    (
        ("--steps",),
        int,
        "Denoising steps.  [default: 20; 1 to 8 for models distilled to few steps, "
        "which inspect tells]",
    ),
    (
        ("--cfg-scale",),
        float,
        "How closely to follow the prompt; 1 ignores the negative prompt.  [default: "
        "7; 1 for most distilled models]",
    ),
    (
        ("-s", "--seed"),
        int,
        "Start of the random numbers; -1 draws one and reports it.",
    ),
    (("-b", "--batch-count"), int, "Pictures to make; picture i has seed + i."),
    (
        ("--sampling-method",),
        str,
        f"One of {', '.join(SAMPLERS)}; or another program's name, such as "
        '"DPM++ 2M Karras".  [default: euler_a; distilled models have their own]',
    ),
    (
        ("--scheduler",),
        str,
        f"One of {', '.join(SCHEDULES)}.  [default: lcm for lcm and tcd, simple for "
        "ddim_trailing, ddim_uniform for ddim, else the model's: mostly discrete]",
    ),
    (
        ("--sigmas",),
        str,
        'Noise levels instead of a schedule\'s, such as "14.6,7,2.5,0"; they decide '
        "the number of steps.",
    ),
    (
        ("--eta",),
        float,
        "Noise that each step adds, where a sampler does.  [default: the sampler's]",
    ),
    (
        ("--extra-sample-args",),
        str,
        'Finer settings of a sampler or schedule, as "name=number,…".',
    ),
    (
        ("--flow-shift",),
        float,
        "Shift of a flow model's noise levels.  [default: the model's]",
    ),
    (
        ("--rng",),
        str,
        f"Random numbers, one of {', '.join(RNGS)}: cuda is A1111's and "
        "stable-diffusion.cpp's default, cpu is diffusers' and ComfyUI's.",
    ),
    (
        ("--sampler-rng",),
        str,
        "Random numbers of the noise that steps add.  [default: --rng's go on]",
    ),
    (
        ("--original-size",),
        PIXELS,
        "WIDTHxHEIGHT that SDXL takes the picture to have been made of.  [default: "
        "its size]",
    ),
    (
        ("--crop",),
        PIXELS,
        "LEFTxTOP corner that SDXL takes it to have been cut out at.  [default: 0x0]",
    ),
    (
        ("--target-size",),
        PIXELS,
        "WIDTHxHEIGHT that SDXL takes it to have been cut to.  [default: its size]",
    ),
    (
        ("--refiner-switch",),
        float,
        "Part of the steps before --refiner takes over.  [default: 0.8]",
    ),
    (("-i", "--init-img"), str, "Picture to start from."),
    (
        ("--strength",),
        float,
        "How far to leave that picture: 0 hardly, 1 entirely.",
    ),
    (
        ("--resize-mode",),
        str,
        "How pictures get the size to paint: crop their middle, fit all of them in, "
        "repeating their edges, or stretch them.",
    ),
    (
        ("--mask",),
        str,
        "Picture whose white says what of --init-img to repaint.",
    ),
    (("--invert-mask",), bool, "Repaint what is black in it."),
    (
        ("--mask-blur",),
        float,
        "Soft edge, in pixels (sigma), of the part that is put back into --init-img.",
    ),
    (
        ("--paste-back",),
        bool,
        "Leave each pixel of --init-img as it was where the mask is black.",
    ),
    (
        ("--inpaint-full-res",),
        bool,
        "Paint what surrounds the mask alone, at the size of -W and -H or the model's, "
        "and put it back.",
    ),
    (
        ("--inpaint-full-res-padding",),
        int,
        "Pixels around the mask to show the model then.",
    ),
    (
        ("--extend",),
        str,
        'Pixels to add to --init-img and paint, as "left,top,right,bottom".',
    ),
    (
        ("-r", "--ref-image"),
        str,
        "Picture to edit, for models that edit.  [default: --init-img]",
    ),
    (
        ("--img-cfg-scale",),
        float,
        "How closely to keep to it, or to what surrounds the hole, for models that "
        "edit or inpaint.  [default: 1.5 to edit, else 1]",
    ),
    (
        ("--cache-mode",),
        str,
        f"Compute some steps from others: {', '.join(CACHES)}.",
    ),
    (
        ("--cache-option",),
        str,
        'Its settings, as "name=number,…"; see docs/caching.md.',
    ),
    (
        ("--clip-skip",),
        int,
        "Layer of the text encoder to read: 1 the last, 2 the one before; -1: the "
        "model's own.",
    ),
    (
        ("--comma-padding-backtrack",),
        int,
        "Tokens that a chunk of the prompt may end early by, at a comma; A1111 has 20.",
    ),
)
_FILES = {
    "prompt_file": ("--prompt-file", "prompt"),
    "negative_prompt_file": ("--negative-prompt-file", "negative_prompt"),
}


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What to paint, and how. Options that are not given are None."""
    for name, (flag, field) in _FILES.items():
        command = click.option(
            flag,
            name,
            type=click.Path(path_type=Path, dir_okay=False),
            help=f"UTF-8 file to read the {field.replace('_', ' ')} from.",
        )(command)
    for flags, kind, text in reversed(_FLAGS):
        default = getattr(_DEFAULT, _field(flags))
        if default not in (None, "", False):
            text += f"  [default: {default}]"
        listed = flags in (("--extra-sample-args",), ("--cache-option",))
        callback = joined if listed else None
        how: dict[str, Any] = {"type": kind, "multiple": listed, "callback": callback}
        if kind is bool:
            how = {"is_flag": True, "default": None}
        command = click.option(*flags, help=text, **how)(command)
    return command


def request_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of request_options out; the fields that the user gave.

    Raises: ConfigError, SDError.
    """
    given = {}
    for flags, _, _ in _FLAGS:
        field = _field(flags)
        if (value := options.pop(field)) is not None:
            given[field] = value
    for name, (flag, field) in _FILES.items():
        if (path := options.pop(name)) is not None:
            if field in given:
                raise ConfigError(
                    f"{flag} and --{field.replace('_', '-')} are both given"
                )
            given[field] = read_text(path)
    if "sigmas" in given:
        given["sigmas"] = parse_sigmas(given["sigmas"])
    if "extend" in given:
        given["extend"] = _sides(given["extend"])
    if given.get("clip_skip", 1) < 1:  # stable-diffusion.cpp's -1
        given["clip_skip"] = None
    return given


def _sides(text: str) -> tuple[int, ...]:
    """Raises: ConfigError."""
    try:
        return tuple(int(side) for side in text.split(","))
    except ValueError:
        raise ConfigError(
            f"extend {text!r:.100}: must be left,top,right,bottom in whole pixels, "
            "such as 0,0,64,0"
        ) from None


def read_text(path: Path) -> str:
    """A UTF-8 text without the line ends at its end. Raises: SDError."""
    try:
        return path.read_text("utf-8-sig").rstrip("\r\n")
    except OSError as error:
        raise SDError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SDError(
            f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8"
        ) from error


def _field(flags: tuple[str, ...]) -> str:
    return flags[-1].removeprefix("--").replace("-", "_")
