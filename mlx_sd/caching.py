"""Steps that take over from earlier ones what has hardly changed since.

A cache stands between the denoiser and the UNet. It is asked once for each evaluation
and either computes or answers from what it kept; it serves one picture. It is made for
that picture's noise levels, its network's prediction, and how often its sampler
evaluates the network in a step.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np

from .errors import ConfigError, unknown
from .models.unet import Deep
from .sampling.prediction import Prediction

Outputs = list[mx.array]  # of the UNet for each condition, (1, h, w, C) float32
Compute = Callable[[Deep | None], Outputs]


class Cache(Protocol):
    def __call__(
        self, step: int, x: mx.array, sigma: float, compute: Compute
    ) -> Outputs:
        """What the UNet puts out, or something near it.

        Args:
            step: from 0; the same for all evaluations of a step.
            x: (1, h, w, C) the noisy latent; sigma: its noise level.
            compute: asks the UNet.
        """
        ...


class UCache:
    """Adds what the network last added to its input, while that changes little.

    The error that this makes is estimated from how far the input has moved and how much
    of that the output followed so far. As stable-diffusion.cpp has it: of a sampler's
    two evaluations in a step the first is always computed, and taught nothing by.
    """

    def __init__(
        self,
        sigmas: Sequence[float],
        prediction: type[Prediction],
        evaluations: int = 1,
        *,
        threshold: float = 1.0,
        start: float = 0.15,
        end: float = 0.95,
        decay: float = 1.0,
        relative: float = 1.0,
        reset: float = 1.0,
    ):
        self._steps, self._prediction = len(sigmas) - 1, prediction
        self._last = evaluations - 1  # of a step's evaluations, from 0
        self._threshold, self._decay = threshold, decay
        self._relative, self._reset = bool(relative), bool(reset)
        top, bottom = (min(int(p * self._steps), self._steps - 1) for p in (start, end))
        self._sigmas = sigmas[bottom], sigmas[top]  # the window, without the former
        self._added: Outputs = []  # to the input, when it was last computed
        self._computed: tuple[mx.array, mx.array] | None = None  # input and output
        self._step, self._evaluation, self._skipped, self._active = -1, 0, 0, 0
        self._moved = self._error = self._rate = 0.0
        self._change: float | None = None  # of the output, a running mean

    def __call__(
        self, step: int, x: mx.array, sigma: float, compute: Compute
    ) -> Outputs:
        self._evaluation = self._evaluation + 1 if step == self._step else 0
        self._step, (low, high) = step, self._sigmas
        if self._evaluation != self._last or not low < sigma <= high:
            return compute(None)
        shown = self._prediction.scale_input(x, sigma)
        if self._may_skip(shown):
            self._skipped += 1
            return [shown + added for added in self._added]
        outs = compute(None)
        self._learn(shown, outs)
        return outs

    def _may_skip(self, shown: mx.array) -> bool:
        if self._computed is None:
            return False
        before, out = self._computed
        self._moved, size = _mean_size(shown - before), _mean_size(out)
        if not (self._rate and self._moved and size):
            return False
        error, limit = self._rate * self._moved, self._limit()
        if self._relative:
            change = size if self._change is None else 1.6 * self._change
            error /= (max(size, 1e-6) * max(change, 1e-6)) ** 0.5
        else:
            limit *= size
        self._error = self._error * self._decay + error * (1 + 0.5 * self._skipped)
        if self._error < limit:
            return True
        if self._reset:
            self._error = 0.0
        return False

    def _limit(self) -> float:
        """Stricter early, where the picture is laid out, and laxer at the end."""
        progress = self._active / self._steps
        factor = 0.5 if progress < 0.2 else 1.5 if progress > 0.8 else 1.0
        return self._threshold * factor

    def _learn(self, shown: mx.array, outs: Outputs) -> None:
        if self._computed is not None:
            change = _mean_size(outs[0] - self._computed[1])
            if change:
                old = change if self._change is None else self._change
                self._change = 0.8 * old + 0.2 * change
            if change and self._moved:
                self._rate = change / self._moved
        self._computed = shown, outs[0]
        self._added = [out - shown for out in outs]
        self._active += 1
        self._skipped = 0


class Spectrum:
    """Foretells clean latents from those before: a straight line and a fitted curve.

    The curve is of Chebyshev polynomials, by ridge regression. As stable-diffusion.cpp
    has it, after Spectrum (adaptive spectral feature forecasting).
    """

    def __init__(
        self,
        sigmas: Sequence[float],
        prediction: type[Prediction],
        evaluations: int = 1,
        *,
        w: float = 0.4,
        m: float = 3,
        lam: float = 1.0,
        window: float = 2.0,
        flex: float = 0.5,
        warmup: float = 4,
        stop: float = 0.9,
    ):
        self._prediction = prediction
        self._weight, self._degree, self._ridge = w, int(m), lam
        self._window, self._flex = window, flex
        self._warmup, self._stop = warmup, int(stop * (len(sigmas) - 1))
        self._history: list[tuple[float, Outputs]] = []  # time, x0 of each condition
        self._count, self._foretold = 0, 0  # evaluations

    def __call__(
        self, step: int, x: mx.array, sigma: float, compute: Compute
    ) -> Outputs:
        count, self._count = self._count, self._count + 1
        time = 2 * count / 50 - 1
        if self._may_foretell(count):
            self._foretold += 1
            latents = self._foretell(time)
            return [self._prediction.out(x0, x, sigma) for x0 in latents]
        outs = compute(None)
        if count >= self._warmup:
            self._window += self._flex
        self._foretold = 0
        latents = [self._prediction.x0(out, x, sigma) for out in outs]
        kept = max(self._degree + 1, 6)
        self._history = [*self._history, (time, latents)][-kept:]
        return outs

    def _may_foretell(self, count: int) -> bool:
        if not self._warmup <= count < self._stop or len(self._history) < 2:
            return False
        return (self._foretold + 1) % max(int(self._window), 1) != 0

    def _foretell(self, time: float) -> Outputs:
        """x0 of each condition, a weighted sum of those kept."""
        times = np.array([at for at, _ in self._history])
        basis = np.polynomial.chebyshev.chebvander(times, self._degree)
        normal = basis.T @ basis + self._ridge * np.eye(self._degree + 1)
        here = np.polynomial.chebyshev.chebvander(np.array([time]), self._degree)[0]
        weights = self._weight * (here @ np.linalg.solve(normal, basis.T))
        zero = mx.zeros(1)
        weights[-1] += (1 - self._weight) * 1.5
        weights[-2] -= (1 - self._weight) * 0.5
        kept = [latents for _, latents in self._history]
        return [
            sum((x0 * w for x0, w in zip(column, weights.tolist(), strict=True)), zero)
            for column in zip(*kept, strict=True)
        ]


class DeepCache:
    """Computes the UNet's deep levels only now and then, its outermost blocks always.

    Source: Ma et al. 2023 (arXiv 2312.00858), with uniform intervals; the names are
    those of its authors' package.
    """

    def __init__(
        self,
        sigmas: Sequence[float],
        prediction: type[Prediction],
        evaluations: int = 1,
        *,
        cache_interval: float = 3,
        cache_branch_id: float = 0,
    ):
        self._interval = int(cache_interval)
        self._deep = Deep(branch=int(cache_branch_id))
        self._count = 0

    def __call__(
        self, step: int, x: mx.array, sigma: float, compute: Compute
    ) -> Outputs:
        self._deep.reuse = self._count % self._interval != 0
        self._count += 1
        return compute(self._deep)


# By stable-diffusion.cpp's names, and DeepCache's own.
CACHES: dict[str, Callable[..., Cache]] = {
    "ucache": UCache,
    "deepcache": DeepCache,
    "spectrum": Spectrum,
}
# What each number among their options may be; those with True are whole.
_RANGES: dict[str, tuple[float, float, bool]] = {
    "threshold": (0, math.inf, False),
    "start": (0, 1, False),
    "end": (0, 1, False),
    "decay": (0, 1, False),
    "relative": (0, 1, True),
    "reset": (0, 1, True),
    "cache_interval": (1, 1000, True),
    "cache_branch_id": (0, 100, True),
    "w": (0, 1, False),
    "m": (0, 10, True),
    "lam": (1e-6, math.inf, False),
    "window": (1, 1000, False),
    "flex": (0, 1000, False),
    "warmup": (0, 1000, True),
    "stop": (0, 1, False),
}


def options(mode: str) -> list[str]:
    """What a cache knows of stable-diffusion.cpp's --cache-option."""
    parameters = inspect.signature(CACHES[mode]).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def check(mode: str, given: Mapping[str, float]) -> None:
    """Raises: ConfigError unless it is a cache, and takes these options."""
    if mode not in CACHES:
        raise unknown("cache_mode", mode, CACHES)
    for name, value in given.items():
        if name not in (known := options(mode)):
            raise unknown(f"cache_option of {mode}", name, known)
        low, high, whole = _RANGES[name]
        if not low <= value <= high or whole and value != int(value):
            kind = "a whole number" if whole else "a number"
            limits = f"from {low:g}" + ("" if high == math.inf else f" to {high:g}")
            raise ConfigError(f"cache_option {name}={value:g}: must be {kind} {limits}")
    if mode == "ucache" and given.get("start", 0.15) >= given.get("end", 0.95):
        raise ConfigError(
            "cache_option start: must be less than end, 0.95 if not given"
        )


def _mean_size(x: mx.array) -> float:
    return float(mx.abs(x).mean())
