"""Higher order from what earlier steps saw, at one evaluation a step."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise

import mlx.core as mx
import numpy as np

from ...errors import ConfigError
from .sde import dpmpp_2m_sde
from .step import Denoise, Noise, Step, ancestral, phi1, phi2, slope, toward


def dpmpp_2m(
    denoise: Denoise, x: mx.array, sigmas: list[float], noise: Noise
) -> Iterator[Step]:
    """DPM-Solver++(2M): Lu et al. 2022 (arXiv 2211.01095), alg. 2.

    First order on the first step, for want of history, and on the last, where λ has no
    end.
    """
    return dpmpp_2m_sde(denoise, x, sigmas, noise, eta=0.0)


def dpmpp_2m_v2(
    denoise: Denoise, x: mx.array, sigmas: list[float], noise: Noise
) -> Iterator[Step]:
    """stable-diffusion.cpp's variant of DPM-Solver++(2M), known nowhere else.

    It takes the longer of two steps in λ over the shorter for their ratio, and moves
    towards x0 by their mean. First order, unless the steps in λ are equal.
    """
    before, h_before = None, 0.0
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if target == 0:
            x = x0
        else:
            h = mean = math.log(sigma / target)
            ahead = x0
            if before is not None:
                short, long = sorted((h, h_before))
                ahead = x0 + (x0 - before) * (short / (2 * long))
                mean = (h + h_before) / 2
            x = x * (target / sigma) - ahead * math.expm1(-mean)
            before, h_before = x0, h
        yield Step(i, sigma, x, x0)


# Weights of the slopes, newest first, where levels are equally spaced. Source: Adams
# and Bashforth; Hairer, Nørsett and Wanner, "Solving ODEs I", III.1.
_ADAMS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def _adams(sigmas: list[float], i: int, order: int) -> list[float]:
    """Weights of the last `order` slopes in step i, as if all steps were as long."""
    return [w * (sigmas[i + 1] - sigmas[i]) for w in _ADAMS[order - 1]]


def _lagrange(sigmas: list[float], i: int, order: int) -> list[float]:
    """Weights of the last `order` slopes in step i, for steps of any length: integrals
    of the Lagrange polynomials, by a Gaussian rule that is exact for them."""
    nodes, masses = np.polynomial.legendre.leggauss((order + 1) // 2)
    length = sigmas[i + 1] - sigmas[i]
    at = sigmas[i] + (nodes + 1) / 2 * length
    known = [sigmas[i - k] for k in range(order)]

    weights = []
    for j, own in enumerate(known):
        polynomial = np.ones_like(at)
        for other in known[:j] + known[j + 1 :]:
            polynomial *= (at - other) / (own - other)
        weights.append(float(masses @ polynomial) * length / 2)
    return weights


def _linear_multistep(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    weights: Callable[[list[float], int, int], list[float]],
    order: int = 4,
    shift: int = 0,
    heun_start: bool = False,
) -> Iterator[Step]:
    """x moved by a weighted sum of slopes, at first of as many as there are.

    With `shift`, a weight goes to a slope that much newer, but not to the newest.
    """
    slopes: deque[mx.array] = deque(maxlen=min(order, len(sigmas)))
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        slopes.appendleft(slope(x, x0, sigma))
        if i == 0 and heun_start and target > 0:
            end = toward(x, x0, sigma, target)
            d = slopes[0] + slope(end, denoise(end, target), target)
            x = x + d * ((target - sigma) / 2)
        else:
            for j, weight in enumerate(weights(sigmas, i, len(slopes))):
                x = x + slopes[max(j - shift, min(j, 1))] * weight
        yield Step(i, sigma, x, x0)


def ipndm(
    denoise: Denoise, x: mx.array, sigmas: list[float], noise: Noise
) -> Iterator[Step]:
    """Adams and Bashforth's method of order 4, as if levels were equally spaced.

    Source: Zhang and Chen 2022 (arXiv 2204.13902), "iPNDM"; fourth order only where
    levels are equally spaced.
    """
    return _linear_multistep(denoise, x, sigmas, _adams)


def ipndm_v(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    variable_order: float = 4,
) -> Iterator[Step]:
    """`ipndm` with weights for steps of any length, so of order 4 on every schedule.

    With `variable_order` below 4, as in stable-diffusion.cpp, where it is 2, higher
    orders have `ipndm`'s weights.
    """
    top = whole("variable_order", variable_order)

    def weights(sigmas: list[float], i: int, order: int) -> list[float]:
        return (_lagrange if order <= top else _adams)(sigmas, i, order)

    return _linear_multistep(denoise, x, sigmas, weights)


def plms(
    denoise: Denoise, x: mx.array, sigmas: list[float], noise: Noise
) -> Iterator[Step]:
    """`ipndm` whose first step is Heun's, with a second evaluation.

    Source: Liu et al. 2022 (arXiv 2202.09778), eq. 9 and 12, as in the code of Rombach
    et al. 2022.
    """
    return _linear_multistep(denoise, x, sigmas, _adams, heun_start=True)


def lms(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    lms_max_order: float = 4,
    lms_shift: float = 0,
) -> Iterator[Step]:
    """Adams and Bashforth's method for steps of any length.

    Source: `sample_lms` of k-diffusion. `lms_shift` 1 pairs weights with slopes as
    stable-diffusion.cpp does.
    """
    order = whole("lms_max_order", lms_max_order)
    shift = whole("lms_shift", lms_shift, least=0)
    return _linear_multistep(denoise, x, sigmas, _lagrange, order, shift)


def whole(name: str, value: float, least: int = 1) -> int:
    """Raises: ConfigError unless `value` is a whole number and not below `least`."""
    if value < least or value != int(value):
        raise ConfigError(f"{name}={value:g}: a whole number from {least} is needed")
    return int(value)


def res_multistep(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 0.0,
    flow: bool = False,
) -> Iterator[Step]:
    """A two-step exponential integrator, exact where x0 is linear in λ.

    Source: Zhang et al. 2023 (arXiv 2308.02157), "refined exponential solver", its
    multistep form in ComfyUI. First order on the first step and on the last.
    """
    before, gone = None, 0.0
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = ahead = denoise(x, sigma)
        split = ancestral(sigma, target, eta, flow)
        if split.down > 0:
            h = math.log(sigma / split.down)
            if before is not None:
                ahead = x0 + (x0 - before) * (phi2(-h) / phi1(-h) * h / gone)
            # λ gone by before noise was added: the stretch that `x0 - before` spans.
            before, gone = x0, h
        x = split.renoise(toward(x, ahead, sigma, split.down), noise)
        yield Step(i, sigma, x, x0)
