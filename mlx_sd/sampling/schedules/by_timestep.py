"""Schedules that choose timesteps, and take the noise levels that belong to them."""

from itertools import pairwise

from ...errors import ConfigError
from ..levels import Levels
from .quantile import beta_quantile


def discrete(steps: int, levels: Levels) -> list[float]:
    """Timesteps spaced evenly from the last to the first.

    Source: `get_sigmas` of k-diffusion, A1111's "Normal".
    """
    gap = levels.t_max / max(steps - 1, 1)
    return _at([levels.t_max - i * gap for i in range(steps)], levels)


def sgm_uniform(steps: int, levels: Levels) -> list[float]:
    """Timesteps spaced evenly from the last to one before 0.

    Source: the discretisation of Stability's generative-models.
    """
    return _at(_even(steps, levels), levels)


def simple(steps: int, levels: Levels) -> list[float]:
    """Every so many timesteps from the last, rounded up to whole ones.

    More steps than timesteps are spaced as in `sgm_uniform`. Source: ComfyUI.
    """
    count = int(levels.t_max) + 1
    whole = [count - 1 - i * count // steps for i in range(steps)]
    return _at(_distinct(whole, _even(steps, levels)), levels)


def ddim_uniform(steps: int, levels: Levels) -> list[float]:
    """Multiples of a whole number of timesteps, and 1: the last is left out.

    Where `steps` is no divisor of 1000, LDM and ComfyUI take more steps than asked for;
    this is the "leading" spacing of diffusers, which does not. One step starts at
    timestep 1, as in all of them. More than 999 are spaced as in `sgm_uniform`.

    Source: Song et al. 2020 (arXiv 2010.02502), and the LDM code.
    """
    gap = (int(levels.t_max) + 1) // steps
    whole = [1 + (steps - 1 - i) * gap for i in range(steps)]
    if whole[0] > levels.t_max:
        return sgm_uniform(steps, levels)
    return _at(_distinct(whole, _even(steps, levels)), levels)


def lcm(steps: int, levels: Levels) -> list[float]:
    """Some of the 50 timesteps that consistency models are distilled at, evenly chosen.

    More than 50 steps are spaced as in `sgm_uniform`.

    Source: Luo et al. 2023 (arXiv 2310.04378), as in diffusers.
    """
    learnt = 50
    gap = (int(levels.t_max) + 1) // learnt
    whole = [(learnt - i * learnt // steps) * gap - 1 for i in range(steps)]
    return _at(_distinct(whole, _even(steps, levels)), levels)


def smoothstep(steps: int, levels: Levels) -> list[float]:
    """Timesteps along u²(3 - 2u), rounded: close together at both ends.

    Where two would be one (from 78 steps on), none is rounded. Source: a simpler
    `beta`, by stable-diffusion.cpp.
    """
    shares = [1 - i / steps for i in range(steps)]
    exact = [levels.t_max * u * u * (3 - 2 * u) for u in shares]
    return _at(_distinct([round(t) for t in exact], exact), levels)


def beta(
    steps: int, levels: Levels, *, alpha: float = 0.6, beta: float = 0.6
) -> list[float]:
    """Timesteps at the quantiles of a beta distribution, rounded.

    Where two would be one, stable-diffusion.cpp and ComfyUI leave one out and take
    fewer steps; here none is rounded then.

    Args:
        alpha, beta: above 0; below 1, more steps go to that end.

    Source: Lee et al. 2024 (arXiv 2407.12173).
    """
    if min(alpha, beta) <= 0:
        raise ConfigError(
            f"schedule beta: alpha={alpha:g} and beta={beta:g} must be above 0"
        )
    shares = (beta_quantile(1 - i / steps, alpha, beta) for i in range(steps))
    exact = [levels.t_max * share for share in shares]
    return _at(_distinct([round(t) for t in exact], exact), levels)


def _even(steps: int, levels: Levels) -> list[float]:
    return [levels.t_max * (1 - i / steps) for i in range(steps)]


def _distinct(whole: list[int], exact: list[float]) -> list[float]:
    """The whole timesteps, or where some are the same, the exact ones."""
    if all(a > b for a, b in pairwise(whole)):
        return [float(t) for t in whole]
    return exact


def _at(timesteps: list[float], levels: Levels) -> list[float]:
    return [*map(levels.sigma, timesteps), 0.0]
