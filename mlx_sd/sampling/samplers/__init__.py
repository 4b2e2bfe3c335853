"""Samplers by name, and the walk of one down a list of noise levels."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx

from ...errors import ConfigError
from ..levels import Levels
from .distilled import lcm, tcd
from .euler import (
    euler,
    euler_ancestral,
    euler_ancestral_cfg_pp,
    euler_cfg_pp,
    euler_ge,
)
from .multistep import (
    dpmpp_2m,
    dpmpp_2m_v2,
    ipndm,
    ipndm_v,
    lms,
    plms,
    res_multistep,
)
from .sde import dpmpp_2m_sde, dpmpp_2m_sde_bt, dpmpp_3m_sde, er_sde
from .second_order import (
    dpm2,
    dpm2_ancestral,
    dpmpp_2s_ancestral,
    dpmpp_sde,
    heun,
    res_2s,
)
from .step import Denoise, GuidedDenoise, Noise, Step, ancestral
from .unipc import unipc

__all__ = [
    "SAMPLERS",
    "Denoise",
    "GuidedDenoise",
    "Noise",
    "Sampler",
    "Step",
    "ancestral",
    "check",
    "walk",
]

_OURS = frozenset({"eta", "flow", "table", "seed"})  # options that `walk` has by name


@dataclass(frozen=True)
class Sampler:
    """A generator of Steps over (denoise, x, sigmas, noise); its options are its
    keyword-only parameters."""

    run: Callable[..., Iterator[Step]]
    label: str  # A1111's name, or one in its manner
    eta: float | None = None  # unless the user gives one; None: it takes none
    eta_max: float = math.inf
    scheduler: str | None = None  # unless the user names one; None: the family's
    uncond: bool = False  # `denoise` has to be a GuidedDenoise
    evaluations: int = 1  # of the network in a step, but for a last one down to 0

    @cached_property
    def options(self) -> frozenset[str]:
        parameters = inspect.signature(self.run).parameters.values()
        return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    @property
    def args(self) -> list[str]:
        """What it knows of stable-diffusion.cpp's --extra-sample-args."""
        return sorted(self.options - _OURS)


SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(euler, "Euler"),
    "euler_a": Sampler(euler_ancestral, "Euler a", eta=1.0),
    "heun": Sampler(heun, "Heun", evaluations=2),
    "dpm2": Sampler(dpm2, "DPM2", evaluations=2),
    "dpm2_a": Sampler(dpm2_ancestral, "DPM2 a", eta=1.0, evaluations=2),
    "dpm++2s_a": Sampler(dpmpp_2s_ancestral, "DPM++ 2S a", eta=1.0, evaluations=2),
    "dpm++sde": Sampler(dpmpp_sde, "DPM++ SDE", eta=1.0, evaluations=2),
    "dpm++2m": Sampler(dpmpp_2m, "DPM++ 2M"),
    "dpm++2mv2": Sampler(dpmpp_2m_v2, "DPM++ 2M v2"),
    "dpm++2m_sde": Sampler(dpmpp_2m_sde, "DPM++ 2M SDE", eta=1.0),
    "dpm++2m_sde_bt": Sampler(dpmpp_2m_sde_bt, "DPM++ 2M SDE BT", eta=1.0),
    "dpm++3m_sde": Sampler(dpmpp_3m_sde, "DPM++ 3M SDE", eta=1.0),
    "ipndm": Sampler(ipndm, "iPNDM"),
    "ipndm_v": Sampler(ipndm_v, "iPNDM v"),
    "plms": Sampler(plms, "PLMS"),
    "lms": Sampler(lms, "LMS"),
    "lcm": Sampler(lcm, "LCM", scheduler="lcm"),
    "tcd": Sampler(tcd, "TCD", eta=0.0, eta_max=1.0, scheduler="lcm"),
    "ddim": Sampler(euler_ancestral, "DDIM", eta=0.0, scheduler="ddim_uniform"),
    "ddim_trailing": Sampler(
        euler_ancestral, "DDIM trailing", eta=0.0, scheduler="simple"
    ),
    "res_multistep": Sampler(res_multistep, "RES multistep", eta=0.0),
    "res_2s": Sampler(res_2s, "RES 2S", eta=0.0, evaluations=2),
    "er_sde": Sampler(er_sde, "ER SDE", eta=1.0),
    "unipc": Sampler(unipc, "UniPC"),
    "euler_cfg_pp": Sampler(euler_cfg_pp, "Euler CFG++", uncond=True),
    "euler_a_cfg_pp": Sampler(
        euler_ancestral_cfg_pp, "Euler a CFG++", eta=1.0, uncond=True
    ),
    "euler_ge": Sampler(euler_ge, "Euler GE", eta=0.0),
}


def check(
    name: str,
    eta: float | None = None,
    args: Mapping[str, float] | None = None,
    flow: bool = False,
) -> None:
    """Raises: ConfigError unless SAMPLERS[name] takes this eta and these arguments."""
    sampler = SAMPLERS[name]
    if eta is not None:
        if sampler.eta is None:
            raise ConfigError(f"sampler {name} takes no eta; leave it out")
        # A flow's split has no level to step down to beyond 1.
        most = min(sampler.eta_max, 1.0 if flow else math.inf)
        if not 0 <= eta <= most or math.isinf(eta):
            limits = "from 0" if math.isinf(most) else f"from 0 to {most:g}"
            raise ConfigError(f"eta {eta:g}: {name} takes one {limits}")
    for key, value in (args or {}).items():
        if key not in sampler.args:
            known = ", ".join(sampler.args) or "none"
            raise ConfigError(f"sampler {name} has no argument {key!r}; known: {known}")
        if not math.isfinite(value):
            raise ConfigError(f"{key}={value}: a finite number is needed")


def walk(
    name: str,
    denoise: Denoise | GuidedDenoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float | None = None,
    flow: bool = False,
    table: Levels,
    seed: int = 0,
    args: Mapping[str, float] | None = None,
) -> Iterator[Step]:
    """Walk `x` down `sigmas` by a sampler's name, one Step from each level to the next.

    Args:
        denoise: (x, sigma) → x0, or two of them where the sampler has `uncond`.
        x: any shape, noised to sigmas[0].
        sigmas: strictly falling; it may end in 0.
        noise: called once for each time that a step adds noise.
        eta: how much noise a step adds; None: the sampler's own value.
        flow: whether levels are those of a flow model, from 1 down.
        table: the noise levels that the model was trained on.
        seed: of the one sampler that draws its own noise, dpm++2m_sde_bt.
        args: values for `Sampler.args`.

    Nothing is computed before a Step is asked for and its arrays evaluated.

    Raises: ConfigError for an eta or an argument that the sampler does not take.
    """
    check(name, eta, args, flow)
    sampler = SAMPLERS[name]
    given = {
        "eta": sampler.eta if eta is None else eta,
        "flow": flow,
        "table": table,
        "seed": seed,
    }
    options = {key: given[key] for key in _OURS & sampler.options}
    return sampler.run(denoise, x, sigmas, noise, **options, **(args or {}))
