"""First order: straight lines from one level to the next."""

from collections.abc import Iterator
from itertools import pairwise

import mlx.core as mx

from .step import (
    Denoise,
    GuidedDenoise,
    Noise,
    Step,
    ancestral,
    signal,
    slope,
    toward,
)


def euler(
    denoise: Denoise, x: mx.array, sigmas: list[float], noise: Noise
) -> Iterator[Step]:
    """Straight lines along dx/dsigma: Karras et al. 2022 (arXiv 2206.00364), alg. 1
    without its second-order correction."""
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        x = toward(x, x0, sigma, target)
        yield Step(i, sigma, x, x0)


def euler_ancestral(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    flow: bool = False,
) -> Iterator[Step]:
    """Euler below the target, then fresh noise up to it; the last step adds none.

    DDIM is the same: Song et al. 2020 (arXiv 2010.02502), eq. 12 and 16, divided by √α,
    are these steps. Source: `sample_euler_ancestral` of k-diffusion.
    """
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        split = ancestral(sigma, target, eta, flow)
        x = split.renoise(toward(x, x0, sigma, split.down), noise)
        yield Step(i, sigma, x, x0)


def euler_cfg_pp(
    denoise: GuidedDenoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    flow: bool = False,
) -> Iterator[Step]:
    """CFG++ without fresh noise: Chung et al. 2024 (arXiv 2406.08070), alg. 2."""
    return euler_ancestral_cfg_pp(denoise, x, sigmas, noise, eta=0.0, flow=flow)


def euler_ancestral_cfg_pp(
    denoise: GuidedDenoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    flow: bool = False,
) -> Iterator[Step]:
    """The clean latent under guidance, noised again by what the unguided one leaves.

    Source: Chung et al. 2024 (arXiv 2406.08070), alg. 2; the split is Euler's.
    """
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0, x0_uncond = denoise(x, sigma)
        split = ancestral(sigma, target, eta, flow)
        left = (x - x0_uncond * signal(sigma, flow)) * (split.down / sigma)
        x = split.renoise(x0 * signal(split.down, flow) + left, noise)
        yield Step(i, sigma, x, x0)


def euler_ge(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 0.0,
    flow: bool = False,
    gamma: float = 2.0,
) -> Iterator[Step]:
    """Euler along γ·slope + (1 - γ)·the slope before; the last step takes x0.

    Source: Permenter and Yuan 2023 (arXiv 2306.04848), alg. 1, "gradient estimation".
    """
    before = None
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if target == 0:
            x = x0
        else:
            split = ancestral(sigma, target, eta, flow)
            d = slope(x, x0, sigma)
            ahead = d if before is None else d * gamma + before * (1 - gamma)
            x = split.renoise(x + ahead * (split.down - sigma), noise)
            before = d
        yield Step(i, sigma, x, x0)
