"""Samplers of distilled models, which see the clean latent in one step."""

import math
from collections.abc import Iterator
from itertools import pairwise

import mlx.core as mx

from ...errors import ConfigError
from ..levels import Levels, NoiseTable
from .step import Denoise, Noise, Step, signal, slope


def lcm(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    flow: bool = False,
    noise_clip_std: float = 0.0,
    noise_scale_start: float = 1.0,
    noise_scale_end: float | None = None,
) -> Iterator[Step]:
    """The clean latent, noised anew to the next level.

    Args:
        noise_clip_std: noise beyond this many deviations is cut off; 0: none is.
        noise_scale_start, noise_scale_end: the noise is scaled by these in the first
            and in the last step, linearly between; no end: the start.

    Source: Luo et al. 2023 (arXiv 2310.04378), alg. 3; Song et al. 2023
    (arXiv 2303.01469), alg. 1. The options are stable-diffusion.cpp's.
    """
    last = max(len(sigmas) - 2, 1)
    end = noise_scale_start if noise_scale_end is None else noise_scale_end
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = x = denoise(x, sigma)
        if target > 0:
            z = noise()
            if noise_clip_std > 0:
                bound = mx.std(z) * noise_clip_std
                z = mx.clip(z, -bound, bound)
            scale = noise_scale_start + (end - noise_scale_start) * i / last
            x = x0 * signal(target, flow) + z * (target * scale)
        yield Step(i, sigma, x, x0)


def tcd(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 0.0,
    table: Levels,
) -> Iterator[Step]:
    """A step down to timestep (1 - eta)·t of the next level, then noise up to it.

    The last step ends on timestep 0, not on the clean latent: its bit of noise is in
    the authors' code. Source: Zheng et al. 2024 (arXiv 2402.19159), alg. 4, where eta
    is γ.

    Raises: ConfigError for a flow or edm_v model, which has no such timesteps.
    """
    if not isinstance(table, NoiseTable):
        raise ConfigError("tcd knows only models of eps and v; use lcm or euler")
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        t = round(table.t(target)) if target > 0 else 0
        down = table.sigma(math.floor((1 - eta) * t)) if eta or not target else target
        x = x0 + slope(x, x0, sigma) * down
        if target == 0:
            x = x * (1 / math.sqrt(down**2 + 1))  # as x is scaled at timestep 0
        elif target > down:
            x = x + noise() * math.sqrt(target**2 - down**2)
        yield Step(i, sigma, x, x0)
