"""Schedules that space the noise levels themselves, between the model's ends."""

import math

from ..levels import Levels


def karras(steps: int, levels: Levels) -> list[float]:
    """Levels spaced evenly in sigma^(1/7), from sigma_max to sigma_min.

    Source: Karras et al. 2022 (arXiv 2206.00364), eq. 5 with rho = 7.
    """
    rho = 7
    high, low = levels.sigma_max ** (1 / rho), levels.sigma_min ** (1 / rho)
    return [root**rho for root in _even(steps, high, low)] + [0.0]


def exponential(steps: int, levels: Levels) -> list[float]:
    """Levels spaced evenly in ln(sigma), from sigma_max to sigma_min.

    Source: `get_sigmas_exponential` of k-diffusion.
    """
    logs = _even(steps, math.log(levels.sigma_max), math.log(levels.sigma_min))
    return [*map(math.exp, logs), 0.0]


def kl_optimal(steps: int, levels: Levels) -> list[float]:
    """Levels spaced evenly in arctan(sigma), from sigma_max to sigma_min.

    Source: Sabour et al. 2024 (arXiv 2404.14507), what is best for Gaussian data.
    """
    angles = _even(steps, math.atan(levels.sigma_max), math.atan(levels.sigma_min))
    return [*map(math.tan, angles), 0.0]


def bong_tangent(steps: int, levels: Levels) -> list[float]:
    """Two arctangents, one from sigma_max half way down, one from there to sigma_min.

    One step starts half way down, as in stable-diffusion.cpp. Source: RES4LYF.
    """
    count = steps + 2
    cut = count * 3 // 5
    middle = (levels.sigma_max + levels.sigma_min) / 2
    upper = _arctangent(cut, cut, 8 / count, levels.sigma_max, middle)
    lower = _arctangent(count - cut, 0, 8 / count, middle, levels.sigma_min)
    return upper[:-1] + lower[:-1] + [0.0]


def _arctangent(
    count: int, pivot: int, slope: float, start: float, end: float
) -> list[float]:
    """`count` levels from start to end, falling fastest around the number `pivot`."""
    shape = [math.atan(slope * (pivot - i)) for i in range(count)]
    span = shape[0] - shape[-1] or 1.0  # a single level is the start
    return [start - (start - end) * (shape[0] - value) / span for value in shape]


def linear_quadratic(steps: int, levels: Levels) -> list[float]:
    """Half of the steps take off the first 1/40 of the noise, the others speed up.

    Source: Genmo's Mochi, as in ComfyUI.
    """
    slow = steps // 2
    fast, part = steps - slow, 0.025
    slope = part / slow if slow else 0.0
    reached = part if slow else 0.0
    curve = (1 - reached - slope * fast) / fast**2
    gone = [i * slope for i in range(slow)]
    gone += [reached + slope * i + curve * i * i for i in range(fast)]
    return [levels.sigma_max * (1 - share) for share in gone] + [0.0]


def _even(steps: int, first: float, last: float) -> list[float]:
    """From first to last; a single one is the first."""
    gap = (last - first) / max(steps - 1, 1)
    return [first + i * gap for i in range(steps)]
