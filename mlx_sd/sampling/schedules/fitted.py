"""Schedules fitted to what models need, known as tables for a few numbers of steps."""

import math
from collections.abc import Sequence

from ...errors import ConfigError
from ..levels import Levels
from .tables import AYS, GITS

_FAMILIES = {"sd1": "sd1", "sd2": "sd1", "sdxl": "sdxl", "sdxl_refiner": "sdxl"}


def ays(steps: int, levels: Levels, *, family: str) -> list[float]:
    """Align Your Steps: 10 levels, stretched to other numbers of steps.

    SD 2.x has none of its own. It takes SD 1.x's, which had the same noise in training;
    stable-diffusion.cpp yields nothing of use for it.

    Args:
        family: "sd1", "sd2", "sdxl", "sdxl_refiner" or "svd".

    Raises: ConfigError for another family.
    Source: Sabour et al. 2024 (arXiv 2404.14507).
    """
    if (known := _FAMILIES.get(family, family)) not in AYS:
        raise ConfigError(
            f"schedule ays has no noise levels for {family}, only for "
            f"{', '.join(sorted({*_FAMILIES, *AYS}))}; take another schedule"
        )
    return _stretched(AYS[known], steps)


def gits(steps: int, levels: Levels) -> list[float]:
    """Levels of least curvature for 2 to 20 steps; those of 20, stretched, for more.

    One step, which stable-diffusion.cpp has no row for, goes from the first level to 0.

    Source: Chen et al. 2024 (arXiv 2405.11326).
    """
    return _stretched(GITS.get(steps, GITS[20]), steps)


def _stretched(fitted: Sequence[float], steps: int) -> list[float]:
    """`steps` levels and 0, the last one's place; ln(sigma) is linear in between."""
    logs = [math.log(level) for level in fitted]
    levels = []
    for i in range(steps):
        low, part = divmod(i * (len(fitted) - 1) / steps, 1)
        log, after = logs[int(low) : int(low) + 2]
        levels.append(math.exp(log + part * (after - log)))
    return [*levels, 0.0]
