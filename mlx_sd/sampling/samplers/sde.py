"""Solvers of the reverse stochastic equation, which add noise in every step."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .brownian import BrownianPath
from .step import Denoise, Noise, Step, log_snr, signal


class _Leap(NamedTuple):
    """One step of the equation, exact for a constant x0."""

    h: float  # how far λ rises
    keep: float  # factor of x
    gain: float  # factor of x0
    up: float  # deviation of the noise


def _leap(sigma: float, target: float, eta: float, flow: bool) -> _Leap:
    """Source: Lu et al. 2022 (arXiv 2211.01095), eq. 14, with eta² of its noise."""
    h = log_snr(target, flow) - log_snr(sigma, flow)
    keep = target / sigma * math.exp(-eta * h)
    gain = -math.expm1(-(1 + eta) * h) * signal(target, flow)
    return _Leap(h, keep, gain, target * math.sqrt(-math.expm1(-2 * eta * h)))


def dpmpp_2m_sde(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    flow: bool = False,
) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M): Lu et al. 2022 (arXiv 2211.01095), eq. 18.

    `sample_dpmpp_2m_sde` of k-diffusion, "midpoint"; eta 0 is DPM-Solver++(2M).
    """
    before, h_before = None, 0.0
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if target == 0:
            x = x0
        else:
            leap = _leap(sigma, target, eta, flow)
            ahead = x0
            if before is not None:
                ahead = x0 + (x0 - before) * (leap.h / (2 * h_before))
            x = x * leap.keep + ahead * leap.gain
            if leap.up > 0:
                x = x + noise() * leap.up
            before, h_before = x0, leap.h
        yield Step(i, sigma, x, x0)


def dpmpp_2m_sde_bt(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    flow: bool = False,
    seed: int = 0,
) -> Iterator[Step]:
    """`dpmpp_2m_sde` whose noise is one Brownian path, whatever the steps.

    More steps then paint the same picture more exactly. The path is ours (see
    `BrownianPath`): the same on every machine, but no other program has it.
    """
    path = BrownianPath(seed, x.shape)
    pieces = (path.between(target, sigma) for sigma, target in pairwise(sigmas))
    return dpmpp_2m_sde(denoise, x, sigmas, pieces.__next__, eta=eta, flow=flow)


def dpmpp_3m_sde(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    flow: bool = False,
) -> Iterator[Step]:
    """DPM-Solver++(3M) SDE: `sample_dpmpp_3m_sde` of k-diffusion.

    x0 is taken as a parabola in λ, once there are three of them.
    """
    past: list[tuple[mx.array, float]] = []  # (x0, λ gone by after it), newest first
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if target == 0:
            x = x0
        else:
            leap = _leap(sigma, target, eta, flow)
            x = x * leap.keep + x0 * leap.gain
            damped = leap.h * (1 + eta)
            second = 1 + math.expm1(-damped) / damped
            third = second / damped - 0.5
            alpha = signal(target, flow)
            if past:
                (x1, h1), *older = past
                d = (x0 - x1) * (leap.h / h1)
                if older:
                    (x2, h2) = older[0]
                    bend = (d - (x1 - x2) * (leap.h / h2)) * (leap.h / (h1 + h2))
                    x = x - bend * (alpha * third)
                    d = d + bend * (h1 / leap.h)
                x = x + d * (alpha * second)
            if leap.up > 0:
                x = x + noise() * leap.up
            past = [(x0, leap.h), *past[:1]]
        yield Step(i, sigma, x, x0)


def er_sde(
    denoise: Denoise,
    x: mx.array,
    sigmas: list[float],
    noise: Noise,
    *,
    eta: float = 1.0,
    flow: bool = False,
) -> Iterator[Step]:
    """ER-SDE-Solver-3: x0 as a parabola in noise/signal, whose noise is scaled freely.

    Source: Cui et al. 2023 (arXiv 2309.06169), alg. 3, with λ = noise/signal and the
    scale λ·(exp(λ^0.3) + 10)^eta; theirs is eta 1, and 0 is their ODE.
    """
    levels = [_noise_to_signal(sigma, flow) for sigma in sigmas]
    before: list[mx.array] = []  # x0 of the last step, and its first difference
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if target == 0:
            x = x0
        else:
            now, then = levels[i], levels[i + 1]
            alpha = signal(target, flow)
            r = then / now * _er_ratio(then, now, eta)
            x = x * (r * alpha * now / sigma) + x0 * (alpha * (1 - r))
            known = [x0]
            if before:
                first, second = _er_integrals(now, then, eta)
                known.append((x0 - before[0]) * (1 / (now - levels[i - 1])))
                x = x + known[1] * (alpha * first)
            if len(before) > 1:
                bend = (known[1] - before[1]) * (2 / (now - levels[i - 2]))
                x = x + bend * (alpha * second)
            up = alpha * math.sqrt(max(then**2 - (now * r) ** 2, 0.0))
            if eta > 0 and up > 0:
                x = x + noise() * up
            before = known
        yield Step(i, sigma, x, x0)


def _noise_to_signal(sigma: float, flow: bool) -> float:
    """A flow's pure noise stands at 9999, for want of infinity."""
    return min(sigma, 1 - 1e-4) / (1 - min(sigma, 1 - 1e-4)) if flow else sigma


def _er_ratio(then: float, now: float, eta: float) -> float:
    """The noise's scale at `then` over that at `now`, both divided by their levels.

    The ratio is at most 1, where its parts could be beyond any number.
    """
    logs = [math.log(math.exp(level**0.3) + 10) for level in (then, now)]
    return math.exp(eta * (logs[0] - logs[1]))


def _er_integrals(now: float, then: float, eta: float) -> tuple[float, float]:
    """Weights of the first and second derivative of x0 in a step from now to then.

    Integrals of 1/scale and of (λ - now)/scale, times the scale at `then`, by a
    Gaussian rule in ln(λ).
    """
    nodes, masses = np.polynomial.legendre.leggauss(16)
    half = math.log(now / then) / 2
    at = then * np.exp((nodes + 1) * half)
    ratios = np.array([_er_ratio(then, level, eta) for level in at])
    share = masses * half * then * ratios  # λ cancels: d ln(λ) = dλ/λ
    h = then - now
    return h + float(np.sum(share)), h**2 / 2 + float(np.sum((at - now) * share))
