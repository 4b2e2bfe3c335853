"""What a network predicts, and the noise levels that it was trained on."""

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx


class Eps:
    """x = x0 + sigma·noise; the network sees x/√(sigma² + 1) and predicts noise.

    Source: Ho et al. 2020 (arXiv 2006.11239), in the variance-exploding form of
    Karras et al. 2022 (arXiv 2206.00364), table 1.
    """

    @staticmethod
    def scale_input(x: mx.array, sigma: float) -> mx.array:
        return x * (1 / math.sqrt(sigma**2 + 1))

    @staticmethod
    def x0(out: mx.array, x: mx.array, sigma: float) -> mx.array:
        return x - sigma * out

    @staticmethod
    def out(x0: mx.array, x: mx.array, sigma: float) -> mx.array:
        """The prediction that `x0` would follow from."""
        return (x - x0) * (1 / sigma)

    @staticmethod
    def noised(x0: mx.array, noise: mx.array, sigma: float) -> mx.array:
        return x0 + sigma * noise


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


def scaled_linear(
    steps: int = 1000, start: float = 0.00085, end: float = 0.012
) -> NoiseTable:
    """The training noise of SD 1.x, 2.x and SDXL: √beta rises linearly.

    Source: the LDM code of Rombach et al. 2022 (arXiv 2112.10752).
    """
    low, high = math.sqrt(start), math.sqrt(end)
    signal, sigmas = 1.0, []
    for i in range(steps):
        signal *= 1 - (low + (high - low) * i / (steps - 1)) ** 2
        sigmas.append(math.sqrt((1 - signal) / signal))
    return NoiseTable(tuple(sigmas))
