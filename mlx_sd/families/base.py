"""What the pipeline asks of a model family."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from ..models.clip import ClipText
from ..sampling.prediction import Eps, NoiseTable
from ..tokenizers.clip import ClipTokenizer


@dataclass(frozen=True)
class Conditioning:
    """What a prompt becomes for the UNet."""

    context: mx.array  # (1, L, D) text states, L a multiple of 77
    pooled: mx.array | None = None
    vector: mx.array | None = None  # (1, width) pooled text and picture sizes


@dataclass(frozen=True)
class LatentFormat:
    """latent = (z - shift)·scale brings the VAE's z to about unit size."""

    channels: int
    scale: float
    shift: float
    reduction: int = 8  # pixels per latent pixel, each way

    def to_vae(self, latent: mx.array) -> mx.array:
        return latent * (1 / self.scale) + self.shift

    def from_vae(self, z: mx.array) -> mx.array:
        return (z - self.shift) * self.scale


@dataclass(frozen=True)
class Family:
    name: str
    size: int  # default width and height, pixels
    latent: LatentFormat
    prediction: type[Eps]
    noise: NoiseTable
    encode: Callable[[ClipText, ClipTokenizer, str], Conditioning]
