"""Noise schedules: a number of steps → the levels to visit, and a final 0."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ...errors import ConfigError
from ..levels import Levels
from .by_level import bong_tangent, exponential, karras, kl_optimal, linear_quadratic
from .by_shift import flux, flux2, logit_normal
from .by_timestep import (
    beta,
    ddim_uniform,
    discrete,
    lcm,
    sgm_uniform,
    simple,
    smoothstep,
)
from .fitted import ays, gits

__all__ = ["SCHEDULES", "Schedule", "check_sigmas", "parse_sigmas", "sigmas"]

HIGHEST = 1_000_000  # a noise level that squares and exponentials can still bear


@dataclass(frozen=True)
class Schedule:
    """A function of (steps, levels) and of what else it needs, by keyword."""

    levels: Callable[..., list[float]]
    label: str  # A1111's "Schedule type", or one in its manner
    needs: tuple[str, ...] = ()  # of what `sigmas` has by name
    args: tuple[str, ...] = ()  # of stable-diffusion.cpp's --extra-sample-args


# By stable-diffusion.cpp's names; linear_quadratic and ddim_uniform are ComfyUI's.
SCHEDULES: dict[str, Schedule] = {
    "discrete": Schedule(discrete, "Normal"),
    "karras": Schedule(karras, "Karras"),
    "exponential": Schedule(exponential, "Exponential"),
    "ays": Schedule(ays, "Align Your Steps", needs=("family",)),
    "gits": Schedule(gits, "Align Your Steps GITS"),
    "sgm_uniform": Schedule(sgm_uniform, "SGM Uniform"),
    "simple": Schedule(simple, "Simple"),
    "smoothstep": Schedule(smoothstep, "Smoothstep"),
    "kl_optimal": Schedule(kl_optimal, "KL Optimal"),
    "lcm": Schedule(lcm, "LCM"),
    "bong_tangent": Schedule(bong_tangent, "Bong Tangent"),
    "beta": Schedule(beta, "Beta", args=("alpha", "beta")),
    "linear_quadratic": Schedule(linear_quadratic, "Linear Quadratic"),
    "ddim_uniform": Schedule(ddim_uniform, "DDIM"),
    "flux": Schedule(flux, "Flux", needs=("pixels",), args=("base_shift", "max_shift")),
    "flux2": Schedule(flux2, "Flux2", needs=("pixels",)),
    "logit_normal": Schedule(
        logit_normal,
        "Logit Normal",
        needs=("pixels",),
        args=("mu", "std", "logsnr_min", "logsnr_max"),
    ),
}


def sigmas(
    name: str,
    steps: int,
    levels: Levels,
    *,
    family: str = "sd1",
    pixels: int = 64 * 64,
    args: Mapping[str, float] | None = None,
) -> list[float]:
    """The noise levels of a schedule, for any number of steps from 1.

    Args:
        name: a key of SCHEDULES.
        levels: of the prediction; see Prediction.levels.
        family: a key of FAMILIES, for `ays`.
        pixels: of the latent, for `flux`, `flux2` and `logit_normal`.
        args: values for `Schedule.args`.

    Returns: steps + 1 levels, strictly falling; the last is exactly 0. All but those
        of ays, gits, ddim_uniform and, for one step, bong_tangent start at the level
        of the last timestep; flux, flux2 and logit_normal at 1, whatever the model.
    Raises: ConfigError if there are no steps to take, for an argument that the schedule
        does not know, or one that gives levels which do not fall.
    """
    if steps < 1:
        raise ConfigError(f"{steps} steps: at least 1 is needed")
    schedule, args = SCHEDULES[name], args or {}
    for key, value in args.items():
        if key not in schedule.args:
            known = ", ".join(schedule.args) or "none"
            raise ConfigError(
                f"schedule {name} has no argument {key!r}; known: {known}"
            )
        if not math.isfinite(value):
            raise ConfigError(f"{key}={value}: a finite number is needed")
    ours: dict[str, Any] = {"family": family, "pixels": pixels}
    needs = {key: ours[key] for key in schedule.needs}
    found = schedule.levels(steps, levels, **needs, **args)
    if not _falls(found):
        given = ", ".join(f"{key}={value:g}" for key, value in args.items())
        raise ConfigError(
            f"schedule {name} with {given or 'these noise levels'} does not fall at "
            f"each of {steps} steps; take other values or another schedule"
        )
    return found


def parse_sigmas(text: str) -> list[float]:
    """Noise levels as the user lists them for --sigmas: "14.6, 7, 2.5, 0".

    Brackets around them are optional. There is one step fewer than levels.

    Raises: ConfigError unless they are numbers that fall strictly and end in 0.
    """
    listed = text.strip().removeprefix("[").removesuffix("]").split(",")
    try:
        levels = [float(number) for number in listed]
    except ValueError:
        raise ConfigError(
            f"sigmas {text!r:.100}: must be numbers with commas between, such as "
            "14.6,7,2.5,0"
        ) from None
    check_sigmas(levels)
    return levels


def check_sigmas(levels: Sequence[float]) -> None:
    """Raises: ConfigError unless they are levels to step down, from HIGHEST at most."""
    if len(levels) < 2 or not _falls(levels):
        listed = ",".join(f"{level:g}" for level in levels)
        raise ConfigError(
            f"sigmas {listed:.100}: must be two or more levels that fall at each step "
            "and end in 0, such as 14.6,7,2.5,0"
        )
    if levels[0] > HIGHEST:
        raise ConfigError(
            f"sigmas from {levels[0]:g}: no model knows that much noise; "
            f"{HIGHEST:,} is the most"
        )


def _falls(levels: Sequence[float]) -> bool:
    falls = all(before > after for before, after in pairwise(levels))
    return falls and levels[-1] == 0 and levels[0] < math.inf
