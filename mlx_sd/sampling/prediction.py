"""What a network predicts: eps, v or flow, each in both directions."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import mlx.core as mx

from .levels import STEPS, EdmLevels, FlowLevels, Levels, NoiseTable, flux_shift


class Prediction(ABC):
    """How x, the clean latent x0, and what the network puts out follow from each other.

    x has the shape of a latent, (B, H, W, C); sigma > 0.
    """

    flow: ClassVar[bool] = False  # whether x loses the signal as it gains noise
    scheduler: ClassVar[str] = "discrete"  # unless the user or the sampler names one

    @staticmethod
    @abstractmethod
    def noised(x0: mx.array, noise: mx.array, sigma: float) -> mx.array:
        """x of unit noise and a clean latent."""

    @staticmethod
    @abstractmethod
    def scale_input(x: mx.array, sigma: float) -> mx.array:
        """What the network is shown of x."""

    @staticmethod
    @abstractmethod
    def x0(out: mx.array, x: mx.array, sigma: float) -> mx.array:
        """The clean latent that follows from what the network puts out."""

    @staticmethod
    @abstractmethod
    def out(x0: mx.array, x: mx.array, sigma: float) -> mx.array:
        """What the network would put out for `x0` to follow."""

    @staticmethod
    @abstractmethod
    def levels(table: NoiseTable, shift: float | None = None) -> Levels:
        """The noise levels to be denoised.

        Args:
            table: of the model's training, if it had one.
            shift: of flow matching, stable-diffusion.cpp's --flow-shift; None: the
                usual one. Nothing else has it.
        """


class _Slope(Prediction):
    """The network predicts dx/dsigma."""

    @staticmethod
    def x0(out: mx.array, x: mx.array, sigma: float) -> mx.array:
        return x - sigma * out

    @staticmethod
    def out(x0: mx.array, x: mx.array, sigma: float) -> mx.array:
        return (x - x0) * (1 / sigma)


class _Exploding(Prediction):
    """x = x0 + sigma·noise; the network sees x/√(sigma² + 1), of about unit size.

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1, with sigma_data = 1.
    """

    @staticmethod
    def noised(x0: mx.array, noise: mx.array, sigma: float) -> mx.array:
        return x0 + sigma * noise

    @staticmethod
    def scale_input(x: mx.array, sigma: float) -> mx.array:
        return x * (1 / math.sqrt(sigma**2 + 1))

    @staticmethod
    def levels(table: NoiseTable, shift: float | None = None) -> Levels:
        return table


class Eps(_Slope, _Exploding):
    """The network predicts the noise. Source: Ho et al. 2020 (arXiv 2006.11239)."""


class V(_Exploding):
    """The network predicts velocity, (noise - sigma·x0)/√(sigma² + 1).

    Source: Salimans and Ho 2022 (arXiv 2202.00512), section 4, in terms of sigma.
    """

    @staticmethod
    def x0(out: mx.array, x: mx.array, sigma: float) -> mx.array:
        size = sigma**2 + 1
        return x * (1 / size) - out * (sigma / math.sqrt(size))

    @staticmethod
    def out(x0: mx.array, x: mx.array, sigma: float) -> mx.array:
        size = sigma**2 + 1
        return (x * (1 / size) - x0) * (math.sqrt(size) / sigma)


class EdmV(V):
    """Velocity at noise levels without a table, as CosXL has it."""

    scheduler = "exponential"

    @staticmethod
    def levels(table: NoiseTable, shift: float | None = None) -> Levels:
        return EdmLevels()


class _Flow(_Slope):
    """x = (1 - sigma)·x0 + sigma·noise; the network sees x and predicts noise - x0.

    Source: Esser et al. 2024 (arXiv 2403.03206), "rectified flow".
    """

    flow = True

    @staticmethod
    def noised(x0: mx.array, noise: mx.array, sigma: float) -> mx.array:
        return (1 - sigma) * x0 + sigma * noise

    @staticmethod
    def scale_input(x: mx.array, sigma: float) -> mx.array:
        return x


class Sd3Flow(_Flow):
    """Stable Diffusion 3's: the network is told 1000·sigma."""

    @staticmethod
    def levels(table: NoiseTable, shift: float | None = None) -> Levels:
        return FlowLevels(3.0 if shift is None else shift, STEPS)


class FluxFlow(_Flow):
    """FLUX's: the network is told sigma, and a shift of mu is one of exp(mu)."""

    scheduler = "flux"

    @staticmethod
    def levels(table: NoiseTable, shift: float | None = None) -> Levels:
        return FlowLevels(flux_shift(1.15 if shift is None else shift), 1)


# By stable-diffusion.cpp's names, for --prediction.
PREDICTIONS: dict[str, type[Prediction]] = {
    "eps": Eps,
    "v": V,
    "edm_v": EdmV,
    "sd3_flow": Sd3Flow,
    "flux_flow": FluxFlow,
}
