"""UniPC: a predictor and a corrector of any order that share one evaluation."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise

import mlx.core as mx
import numpy as np

from .step import Denoise, Noise, Step, phi1, toward

_ORDER = 3

Seen = tuple[float, mx.array]  # a level, and the clean latent seen from there


def unipc(
    denoise: Denoise, x: mx.array, sigmas: list[float], noise: Noise
) -> Iterator[Step]:
    """UniPC-3, B₁(h) = h, on predictions of x0, as in A1111.

    Source: Zhao et al. 2023 (arXiv 2302.04867), alg. 1 and 2; lower orders on the first
    and the last steps, as in the authors' code.
    """
    seen: deque[Seen] = deque(maxlen=_ORDER)  # newest first
    start, order = x, 0  # of the step before
    for i, (sigma, target) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if i > 0:
            x = _step(start, list(seen)[:order], sigma, [(sigma, x0)])
        seen.appendleft((sigma, x0))
        start, order = x, min(_ORDER, i + 1, len(sigmas) - 1 - i)
        x = x0 if target == 0 else _step(x, list(seen)[:order], target)
        yield Step(i, sigma, x, x0)


def _step(
    x: mx.array, seen: Sequence[Seen], target: float, ahead: Sequence[Seen] = ()
) -> mx.array:
    """x moved from the first level of `seen` to `target`: eq. 3, or 9 with `ahead`."""
    (sigma, x0), *others = [*seen, *ahead]
    h = math.log(sigma / target)
    ratios = [math.log(sigma / level) / h for level, _ in others]
    moved = toward(x, x0, sigma, target)
    for weight, ratio, (_, other) in zip(
        _weights(ratios, h), ratios, others, strict=True
    ):
        moved = moved + (other - x0) * (h * weight / ratio)
    return moved


def _weights(ratios: list[float], h: float) -> np.ndarray:
    """The aₖ of theorem 3.1, where B(h) = h."""
    count = len(ratios)
    if count == 1:
        return np.array([0.5])  # of its order already: the authors' choice
    phi, wanted = phi1(-h), []
    for k in range(1, count + 1):
        phi = (phi - 1 / math.factorial(k)) / -h  # φₖ₊₁(-h)
        wanted.append(math.factorial(k) * phi)
    return np.linalg.solve(np.vander(ratios, increasing=True).T, wanted)
