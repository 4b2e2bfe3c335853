"""What samplers share: their contract, and the arithmetic that they repeat.

A sampler takes a `denoise` function, (x, sigma) → x0, and knows nothing of models. Only
+, - and * touch a latent, so any array type does. Nothing is evaluated here.

Two kinds of noise are told apart by `flow`: x = x0 + sigma·noise if it is false, and
x = (1 - sigma)·x0 + sigma·noise if it is true. Without fresh noise both follow the same
equation, dx/dsigma = (x - x0)/sigma, so only samplers that add noise need to know.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

Denoise = Callable[[mx.array, float], mx.array]
# The clean latent under guidance, and without the prompt.
GuidedDenoise = Callable[[mx.array, float], tuple[mx.array, mx.array]]
Noise = Callable[[], mx.array]  # fresh unit noise of the latent's shape


@dataclass(frozen=True)
class Step:
    index: int  # from 0
    sigma: float  # the level that was denoised from
    x: mx.array  # the latent at the next level
    denoised: mx.array  # the prediction of the clean latent


def toward(x: mx.array, x0: mx.array, sigma: float, target: float) -> mx.array:
    """`x` moved from level sigma to target on the straight line that ends in `x0`."""
    return x0 + (x - x0) * (target / sigma)


def slope(x: mx.array, x0: mx.array, sigma: float) -> mx.array:
    """dx/dsigma: Karras et al. 2022 (arXiv 2206.00364), eq. 1 with eq. 3."""
    return (x - x0) * (1 / sigma)


class Split(NamedTuple):
    """A step in two parts: without noise to `down`, and back up with fresh noise."""

    down: float
    scale: float  # of the latent at `down`, before noise is added
    up: float  # deviation of the noise

    def renoise(self, x: mx.array, noise: Noise) -> mx.array:
        return x * self.scale + noise() * self.up if self.up > 0 else x


def ancestral(sigma: float, target: float, eta: float, flow: bool = False) -> Split:
    """The split whose noise is `eta` of what keeps the posterior's variance.

    Source: Song et al. 2020 (arXiv 2010.02502), eq. 16, with sigma² = (1 - α)/α. For
    flow models, as ComfyUI has it: a share eta of the way to target²/sigma.
    """
    if not flow:
        up = eta * math.sqrt(target**2 * (sigma**2 - target**2)) / sigma
        up = min(target, up)
        return Split(math.sqrt(target**2 - up**2), 1.0, up)
    down = target * (1 + (target / sigma - 1) * eta)
    scale = (1 - target) / (1 - down)
    # √(target² - (down·scale)²) as a product: exactly 0 where eta is.
    rest = (target - down * scale) * (target + down * scale)
    return Split(down, scale, math.sqrt(max(rest, 0.0)))


def signal(sigma: float, flow: bool) -> float:
    """How much of x0 is in x."""
    return 1 - sigma if flow else 1.0


def log_snr(sigma: float, flow: bool = False) -> float:
    """ln(signal/noise), the λ of the DPM-Solver papers; rises as sigma falls.

    Flow models start at pure noise, λ = -∞; -13.8 stands for it, so that differences
    stay finite.
    """
    if not flow:
        return -math.log(sigma)
    sigma = min(sigma, 1 - 1e-6)
    return math.log((1 - sigma) / sigma)


def phi1(z: float) -> float:
    """(e^z - 1)/z, z ≠ 0."""
    return math.expm1(z) / z


def phi2(z: float) -> float:
    """(e^z - 1 - z)/z², z ≠ 0."""
    return (phi1(z) - 1) / z
