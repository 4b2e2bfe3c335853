"""Noise schedules: a number of steps → the levels to visit, and a final 0."""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigError
from .prediction import NoiseTable


def discrete(steps: int, table: NoiseTable) -> list[float]:
    """Levels at timesteps spaced evenly from the last to the first.

    Args:
        steps: denoising steps, at least 1.
        table: the model's training noise.

    Returns: steps + 1 levels, strictly falling from sigma_max; the last is exactly 0.
    Source: `get_sigmas` of k-diffusion, A1111's "Normal".
    """
    gap = table.t_max / max(steps - 1, 1)
    return [table.sigma(table.t_max - i * gap) for i in range(steps)] + [0.0]


def karras(steps: int, table: NoiseTable, rho: float = 7.0) -> list[float]:
    """Levels spaced evenly in sigma^(1/rho), from sigma_max to sigma_min, and 0.

    One step starts at sigma_max. Source: Karras et al. 2022 (arXiv 2206.00364), eq. 5.
    """
    high, low = table.sigma_max ** (1 / rho), table.sigma_min ** (1 / rho)
    gap = (low - high) / max(steps - 1, 1)
    return [(high + i * gap) ** rho for i in range(steps)] + [0.0]


@dataclass(frozen=True)
class Schedule:
    sigmas: Callable[[int, NoiseTable], list[float]]
    label: str  # A1111's "Schedule type"


SCHEDULES: dict[str, Schedule] = {
    "discrete": Schedule(discrete, "Normal"),
    "karras": Schedule(karras, "Karras"),
}


def sigmas(name: str, steps: int, table: NoiseTable) -> list[float]:
    """The levels of a schedule by name.

    Raises: ConfigError if there are no steps to take.
    """
    if steps < 1:
        raise ConfigError(f"{steps} steps: at least 1 is needed")
    return SCHEDULES[name].sigmas(steps, table)
