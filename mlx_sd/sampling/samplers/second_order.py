"""Second order, by a second evaluation of the model within each step."""

import math
from collections.abc import Iterator
from itertools import pairwise

import mlx.core as mx

from .step import Denoise, Noise, Step, ancestral, phi1, phi2, slope, toward


def heun(
    denoise: Denoise, x: mx.array, sigmas: list[float], noise: Noise
) -> Iterator[Step]:
    """The mean of the slopes at both ends: Karras et al. 2022 (arXiv 2206.00364),
    alg. 1. Euler on the last step."""
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        end = toward(x, x0, sigma, target)
        if target > 0:
            d = slope(x, x0, sigma) + slope(end, denoise(end, target), target)
            end = x + d * ((target - sigma) / 2)
        x = end
        yield Step(i, sigma, x, x0)


def dpm2(
    denoise: Denoise, x: mx.array, sigmas: list[float], noise: Noise
) -> Iterator[Step]:
    """`dpm2_ancestral` without fresh noise: `sample_dpm_2` of k-diffusion."""
    return dpm2_ancestral(denoise, x, sigmas, noise, eta=0.0)


def dpm2_ancestral(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    flow: bool = False,
) -> Iterator[Step]:
    """The slope at the geometric mean of both levels; Euler on the last step.

    Source: `sample_dpm_2_ancestral` of k-diffusion, after Karras et al. 2022
    (arXiv 2206.00364), alg. 2, and Lu et al. 2022 (arXiv 2206.00927). An eta so large
    that a step goes down to 0 adds noise here too; there it adds none.
    """
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        split = ancestral(sigma, target, eta, flow)
        if split.down == 0:
            x = x0
        else:
            middle = between(sigma, split.down)
            half = toward(x, x0, sigma, middle)
            d = slope(half, denoise(half, middle), middle)
            x = x + d * (split.down - sigma)
        x = split.renoise(x, noise)
        yield Step(i, sigma, x, x0)


def dpmpp_2s_ancestral(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    flow: bool = False,
) -> Iterator[Step]:
    """DPM-Solver++(2S): toward the clean latent as seen from half way.

    Source: Lu et al. 2022 (arXiv 2211.01095), alg. 1 with r = 1/2, its exponentials of
    λ written as ratios of sigmas; the split is k-diffusion's.
    """
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = ahead = denoise(x, sigma)
        split = ancestral(sigma, target, eta, flow)
        if split.down > 0:
            middle = between(sigma, split.down, flow)
            if middle < sigma:  # equal at a flow's pure noise, which has no middle
                ahead = denoise(toward(x, x0, sigma, middle), middle)
        x = split.renoise(toward(x, ahead, sigma, split.down), noise)
        yield Step(i, sigma, x, x0)


def dpmpp_sde(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    flow: bool = False,
) -> Iterator[Step]:
    """DPM-Solver++(2S) with fresh noise at half way too: `sample_dpmpp_sde` of
    k-diffusion, r = 1/2."""
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = ahead = denoise(x, sigma)
        if target > 0:
            middle = between(sigma, target, flow)
            if middle < sigma:
                split = ancestral(sigma, middle, eta, flow)
                half = toward(x, x0, sigma, split.down)
                ahead = denoise(split.renoise(half, noise), middle)
        split = ancestral(sigma, target, eta, flow)
        x = split.renoise(toward(x, ahead, sigma, split.down), noise)
        yield Step(i, sigma, x, x0)


def res_2s(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 0.0,
    flow: bool = False,
) -> Iterator[Step]:
    """A two-stage exponential integrator, c₂ = 1/2, exact where x0 is linear in λ.

    Source: Zhang et al. 2023 (arXiv 2308.02157), "refined exponential solver", table 1.
    """
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = ahead = denoise(x, sigma)
        split = ancestral(sigma, target, eta, flow)
        if split.down > 0:
            h = math.log(sigma / split.down)
            middle = between(sigma, split.down)
            seen = denoise(toward(x, x0, sigma, middle), middle)
            ahead = x0 + (seen - x0) * (2 * phi2(-h) / phi1(-h))
        x = split.renoise(toward(x, ahead, sigma, split.down), noise)
        yield Step(i, sigma, x, x0)


def between(sigma: float, target: float, flow: bool = False) -> float:
    """The level whose λ, see `log_snr`, is half way."""
    if not flow:
        return math.sqrt(sigma * target)
    odds = math.sqrt((1 - sigma) * (1 - target) / (sigma * target))
    return 1 / (1 + odds)
