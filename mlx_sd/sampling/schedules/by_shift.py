"""Schedules of flow matching: shares of noise from 1 down, more of them near 1."""

import math
from statistics import NormalDist

from ...errors import ConfigError
from ..levels import Levels, flux_shift, shifted


def flux(
    steps: int,
    levels: Levels,
    *,
    pixels: int,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> list[float]:
    """Evenly spaced levels, shifted by exp(mu).

    Args:
        pixels: of the latent. stable-diffusion.cpp counts these, where FLUX's authors
            count its patches, a quarter as many, so that its mu is higher.
        base_shift, max_shift: mu at 256 and at 4096 of them; linear in between.

    Source: Black Forest Labs' `get_schedule`.
    """
    slope = (max_shift - base_shift) / (4096 - 256)
    return _shifted(steps, base_shift + slope * (pixels - 256))


def flux2(steps: int, levels: Levels, *, pixels: int) -> list[float]:
    """As flux, with a mu fitted to the number of steps too.

    Source: Black Forest Labs' `compute_empirical_mu` of FLUX.2.
    """
    many = 1.6927e-4 * pixels + 0.45666666  # mu of 200 steps
    few = 8.73809524e-5 * pixels + 1.89833333  # and of 10
    mu = many if pixels > 4300 else many + (few - many) * (200 - steps) / 190
    return _shifted(steps, mu)


def logit_normal(
    steps: int,
    levels: Levels,
    *,
    pixels: int,
    mu: float = 0.0,
    std: float = 1.75,
    logsnr_min: float = -15.0,
    logsnr_max: float = 18.0,
) -> list[float]:
    """Levels at the quantiles of a distribution whose ln(sigma/(1 - sigma)) is normal.

    Args:
        pixels: of the latent; the mean rises with the logarithm of its side, from 1024.
        mu, std: of that normal distribution.
        logsnr_min, logsnr_max: sigma stays within sigmoid(logsnr_min/2) and
            sigmoid(logsnr_max/2).

    Source: Ideogram 4's scheduler, as in stable-diffusion.cpp.
    """
    if std <= 0:
        raise ConfigError(f"schedule logit_normal: std={std:g} must be above 0")
    mean = mu + 0.5 * math.log(pixels / 1024)
    shares = NormalDist(mean, std)
    logits = [math.inf, *(shares.inv_cdf(1 - i / steps) for i in range(1, steps))]
    low, high = logsnr_min / 2, logsnr_max / 2
    return [_sigmoid(min(max(x, low), high)) for x in logits] + [0.0]


def _shifted(steps: int, mu: float) -> list[float]:
    shift = flux_shift(mu)
    return [shifted(1 - i / steps, shift) for i in range(steps)] + [0.0]


def _sigmoid(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2
