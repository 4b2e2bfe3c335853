"""Samplers: generators that walk a latent down a list of noise levels.

Each takes a `denoise` function, (x, sigma) → x0, and knows nothing of models. They
compute lazily: the consumer evaluates each step, shows it, or stops.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx

Denoise = Callable[[mx.array, float], mx.array]
Noise = Callable[[], mx.array]  # fresh unit noise of the latent's shape


@dataclass(frozen=True)
class Step:
    index: int  # from 0
    sigma: float  # the level that was denoised from
    x: mx.array  # the latent at the next level
    denoised: mx.array  # the prediction of the clean latent


def euler(
    denoise: Denoise, x: mx.array, sigmas: list[float], noise: Noise
) -> Iterator[Step]:
    """Straight lines along dx/dsigma: Karras et al. 2022 (arXiv 2206.00364), alg. 1
    without its second-order correction."""
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        x = x0 + (x - x0) * (target / sigma)
        yield Step(i, sigma, x, x0)


def euler_ancestral(
    denoise: Denoise, x: mx.array, sigmas: list[float], noise: Noise, eta: float = 1.0
) -> Iterator[Step]:
    """Euler below the target, then fresh noise up to it; the last step adds none.

    Source: `sample_euler_ancestral` of k-diffusion; the variances are those of Song
    et al. 2020 (arXiv 2010.02502), eq. 16.
    """
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        down, up = ancestral(sigma, target, eta)
        x = x0 + (x - x0) * (down / sigma)
        if up > 0:
            x = x + noise() * up
        yield Step(i, sigma, x, x0)


def dpmpp_2m(
    denoise: Denoise, x: mx.array, sigmas: list[float], noise: Noise
) -> Iterator[Step]:
    """DPM-Solver++(2M): Lu et al. 2022 (arXiv 2211.01095), alg. 2.

    First order on the first step, for want of history, and on the last, where
    ln(sigma) has no end.
    """
    x0_before, h_before = None, 0.0
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if target == 0:
            x = x0
        else:
            h = math.log(sigma / target)
            ahead = x0
            if x0_before is not None:
                ahead = x0 + (x0 - x0_before) * (h / (2 * h_before))
            x = x * (target / sigma) - ahead * math.expm1(-h)
            x0_before, h_before = x0, h
        yield Step(i, sigma, x, x0)


def ancestral(sigma: float, target: float, eta: float) -> tuple[float, float]:
    """The level to step down to, and the noise to add, so as to reach `target`."""
    up = eta * math.sqrt(target**2 * (sigma**2 - target**2) / sigma**2)
    up = min(target, up)
    return math.sqrt(target**2 - up**2), up


@dataclass(frozen=True)
class Sampler:
    run: Callable[[Denoise, mx.array, list[float], Noise], Iterator[Step]]
    label: str  # A1111's name


SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(euler, "Euler"),
    "euler_a": Sampler(euler_ancestral, "Euler a"),
    "dpm++2m": Sampler(dpmpp_2m, "DPM++ 2M"),
}
