"""The noise levels that a network was trained on, and the timesteps that they go by.

A noise level, sigma, is the noise's standard deviation in the latent x. The network is
told a timestep instead.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Protocol

from ..errors import ConfigError

STEPS = 1000  # timesteps of training, of every family


class Levels(Protocol):
    """Noise levels by timestep, from 0 (least noise) to t_max."""

    @property
    def sigma_min(self) -> float: ...

    @property
    def sigma_max(self) -> float: ...

    @property
    def t_max(self) -> float: ...

    def sigma(self, t: float) -> float:
        """The noise level at timestep t, 0 ≤ t ≤ t_max, as schedules count it."""
        ...

    def t(self, sigma: float) -> float:
        """What the network is told of a noise level, sigma > 0."""
        ...


@dataclass(frozen=True)
class NoiseTable:
    """The noise level of each training timestep, and between them.

    Between whole timesteps ln(sigma) is linear in t, as k-diffusion has it.
    """

    sigmas: tuple[float, ...]  # rising

    @cached_property
    def _logs(self) -> list[float]:
        return [math.log(sigma) for sigma in self.sigmas]

    @property
    def sigma_min(self) -> float:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> float:
        return self.sigmas[-1]

    @property
    def t_max(self) -> float:
        return float(len(self.sigmas) - 1)

    @property
    def alphas_cumprod(self) -> list[float]:
        """The share of the signal in the variance at each timestep, falling from 1."""
        return [1 / (sigma**2 + 1) for sigma in self.sigmas]

    def sigma(self, t: float) -> float:
        """The noise level at timestep t, 0 ≤ t ≤ t_max."""
        low = min(int(t), len(self.sigmas) - 2)
        part = t - low
        return math.exp((1 - part) * self._logs[low] + part * self._logs[low + 1])

    def t(self, sigma: float) -> float:
        """The fractional timestep of a noise level; beyond the table, its end."""
        log = math.log(sigma)
        low = min(max(bisect_right(self._logs, log) - 1, 0), len(self.sigmas) - 2)
        part = (log - self._logs[low]) / (self._logs[low + 1] - self._logs[low])
        return low + min(max(part, 0.0), 1.0)


def noise_table(alphas_cumprod: Sequence[float]) -> NoiseTable:
    """The table of a model that says how much signal each timestep keeps.

    Args:
        alphas_cumprod: falling, each in (0, 1). The last may be 0, no signal and an
            infinite sigma; it becomes 4.9e-8, sigma 4519, as in A1111 and ComfyUI.

    Raises: ConfigError for anything else.
    """
    kept = [float(alpha) for alpha in alphas_cumprod]
    if kept and kept[-1] == 0:
        kept[-1] = 4.8973451890853435e-08
    falls = all(before > after for before, after in pairwise(kept))
    if len(kept) < 2 or not falls or not 0 < kept[-1] < kept[0] < 1:
        raise ConfigError(
            f"alphas_cumprod of {len(kept)} timesteps must be two or more numbers that "
            "fall from below 1 to 0 or above"
        )
    return NoiseTable(tuple(math.sqrt((1 - alpha) / alpha) for alpha in kept))


def noise_of_betas(betas: Sequence[float]) -> NoiseTable:
    """The table of a model that says how much noise each timestep adds.

    Args:
        betas: the share of the variance that becomes noise, each in (0, 1).

    Raises: ConfigError for anything else.
    """
    if not all(0 < beta < 1 for beta in betas):
        raise ConfigError("betas must be above 0 and below 1")
    signal, kept = 1.0, []
    for beta in betas:
        signal *= 1 - beta
        kept.append(signal)
    return noise_table(kept)


def _linear(steps: int, start: float, end: float) -> list[float]:
    return [start + (end - start) * i / (steps - 1) for i in range(steps)]


def _scaled_linear(steps: int, start: float, end: float) -> list[float]:
    return [root**2 for root in _linear(steps, math.sqrt(start), math.sqrt(end))]


def _squared_cosine(steps: int, start: float, end: float) -> list[float]:
    """Nichol and Dhariwal 2021 (arXiv 2102.09672), eq. 17; it has no start and end."""

    def kept(t: float) -> float:
        return math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - kept(i + 1) / kept(i), 0.999) for i in range(steps)]


# Betas by diffusers' names, of (steps, start, end).
BETAS: dict[str, Callable[[int, float, float], list[float]]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _squared_cosine,
}


def scaled_linear(
    steps: int = STEPS, start: float = 0.00085, end: float = 0.012
) -> NoiseTable:
    """The training noise of SD 1.x, 2.x and SDXL: √beta rises linearly.

    Source: the LDM code of Rombach et al. 2022 (arXiv 2112.10752).
    """
    return noise_of_betas(_scaled_linear(steps, start, end))


def zero_terminal_snr(table: NoiseTable) -> NoiseTable:
    """The table shifted and stretched so that nothing of the signal is left at its end.

    Source: Lin et al. 2023 (arXiv 2305.08891), alg. 1; for its end see `noise_table`.
    """
    roots = [math.sqrt(alpha) for alpha in table.alphas_cumprod]
    first, last = roots[0], roots[-1]
    return noise_table(
        [((root - last) * first / (first - last)) ** 2 for root in roots]
    )


@dataclass(frozen=True)
class EdmLevels:
    """CosXL's noise levels; the network is told ln(sigma)/4.

    Schedules that count in timesteps reach from 54 down to 1 only, as they do in
    stable-diffusion.cpp; those that go from sigma_max to sigma_min see all.
    """

    sigma_min: float = 0.002
    sigma_max: float = 120.0
    t_max: ClassVar[float] = STEPS - 1.0

    def sigma(self, t: float) -> float:
        return math.exp(4 * t / STEPS)

    def t(self, sigma: float) -> float:
        return math.log(sigma) / 4


@dataclass(frozen=True)
class FlowLevels:
    """Flow matching: sigma is the share of noise in x, from 0 to 1."""

    shift: float  # see `shifted`
    told: float  # what the network is told of sigma = 1
    t_max: ClassVar[float] = STEPS - 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ConfigError(
                f"a shift of {self.shift:g} of the noise: must be above 0"
            )

    @property
    def sigma_min(self) -> float:
        return self.sigma(0)

    @property
    def sigma_max(self) -> float:
        return self.sigma(self.t_max)

    def sigma(self, t: float) -> float:
        return shifted((t + 1) / STEPS, self.shift)

    def t(self, sigma: float) -> float:
        return self.told * sigma


def shifted(sigma: float, shift: float) -> float:
    """A share of noise above 0 whose odds, noise to signal, are `shift` times as high.

    Source: Esser et al. 2024 (arXiv 2403.03206), eq. 23, divided by shift, so that 1
    stays exactly 1.
    """
    return sigma / (sigma + (1 - sigma) / shift)


def flux_shift(mu: float) -> float:
    """FLUX's way to give a shift, by its logarithm.

    Raises: ConfigError for one that leaves no noise levels to tell apart.
    """
    if not abs(mu) <= 100:
        raise ConfigError(
            f"a shift of exp({mu:g}) of the noise: must be from exp(-100) to exp(100)"
        )
    return math.exp(mu)
