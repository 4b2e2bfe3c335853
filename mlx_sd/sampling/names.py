"""What other programs call our samplers and schedules.

One table for the command line, picture metadata and the server. Case, spaces and
punctuation do not count, "++" is "pp", and k-diffusion's "k_" and "sample_" are left
out.
"""

import difflib
import re
from collections.abc import Iterable
from functools import cache

from ..errors import ConfigError
from .samplers import SAMPLERS
from .schedules import SCHEDULES

# Beside our own names and A1111's labels: those of ComfyUI, k-diffusion, diffusers and
# of A1111's users that are no mere spelling of one.
_SAMPLERS = {
    "euler_ancestral": "euler_a",
    "euler_ancestral_cfg_pp": "euler_a_cfg_pp",
    "gradient_estimation": "euler_ge",
    "dpm_2": "dpm2",
    "dpm_2_ancestral": "dpm2_a",
    "dpm2_ancestral": "dpm2_a",
    "dpmpp_2s_ancestral": "dpm++2s_a",
    "dpmpp_2m_sde_gpu": "dpm++2m_sde",
    "dpmpp_3m_sde_gpu": "dpm++3m_sde",
    "dpmpp_sde_gpu": "dpm++sde",
    "uni_pc": "unipc",
    "pndm": "plms",
    "linear_multistep": "lms",
}
_SCHEDULES = {
    "uniform": "discrete",  # A1111's; its "Normal" has the same levels
    "polyexponential": "exponential",  # the same at rho 1, which is A1111's
}
_AUTOMATIC = {"", "automatic", "default"}


def resolve_sampler(name: str) -> tuple[str, str | None]:
    """A key of SAMPLERS, and one of SCHEDULES if the name ends in a schedule's.

    "DPM++ 2M Karras" → ("dpm++2m", "karras"); "Euler a" → ("euler_a", None).

    Raises: ConfigError, with the nearest name, for one that is unknown.
    """
    key, known, schedules = _plain(name), _samplers(), _schedules()
    if key in known:
        return known[key], None
    for suffix in sorted(schedules, key=len, reverse=True):
        if key.endswith(suffix) and key.removesuffix(suffix) in known:
            return known[key.removesuffix(suffix)], schedules[suffix]
    raise _unknown("sampler", name, SAMPLERS, known)


def resolve_scheduler(name: str) -> str | None:
    """A key of SCHEDULES; None for A1111's "Automatic".

    Raises: ConfigError, with the nearest name, for one that is unknown.
    """
    key, known = _plain(name), _schedules()
    if key in known:
        return known[key]
    if key in _AUTOMATIC:
        return None
    raise _unknown("scheduler", name, SCHEDULES, known)


def _plain(name: str) -> str:
    name = re.sub("^(k|sample)_", "", name.lower().strip())
    return re.sub("[^a-z0-9]", "", name.replace("++", "pp"))


@cache
def _samplers() -> dict[str, str]:
    names = {_plain(alias): name for alias, name in _SAMPLERS.items()}
    for name, sampler in SAMPLERS.items():
        names[_plain(name)] = names[_plain(sampler.label)] = name
    return names


@cache
def _schedules() -> dict[str, str]:
    names = {_plain(alias): name for alias, name in _SCHEDULES.items()}
    for name, schedule in SCHEDULES.items():
        names[_plain(name)] = names[_plain(schedule.label)] = name
    return {alias: name for alias, name in names.items() if name in SCHEDULES}


def _unknown(
    kind: str, name: str, ours: Iterable[str], known: dict[str, str]
) -> ConfigError:
    near = difflib.get_close_matches(_plain(name), known, n=1)
    hint = f"did you mean {known[near[0]]}?" if near else f"known: {', '.join(ours)}"
    return ConfigError(f"unknown {kind} {name!r}; {hint}")
