"""What the pipeline asks of a model family."""

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from ..embeddings import Embeddings
from ..models.clip import ClipText
from ..sampling.levels import NoiseTable
from ..sampling.prediction import Prediction
from ..tokenizers.clip import ClipTokenizer


@dataclass(frozen=True)
class Conditioning:
    """What a prompt becomes for the UNet."""

    context: mx.array  # (1, L, D) text states, L a multiple of 77
    pooled: mx.array | None = None
    vector: mx.array | None = None  # (1, width) pooled text and picture sizes


class Encode(Protocol):
    """One text, as it is at a step, into what the UNet reads."""

    def __call__(
        self,
        clip: ClipText,
        tokenizer: ClipTokenizer,
        prompt: str,
        *,
        clip_skip: int | None = None,
        embeddings: Embeddings | None = None,
        comma_padding_backtrack: int = 0,
    ) -> Conditioning:
        """
        Args:
            prompt: with emphasis and BREAK. Schedules, alternation and AND are resolved
                before; see tokenizers.PromptPlan.
            clip_skip: the layer that is read, 1 the last, 2 the one before, …; None, 0
                or less: the family's default.
            embeddings: whose names in the prompt stand for their vectors.
            comma_padding_backtrack: see ClipTokenizer.chunks.

        Raises: ConfigError for an option out of range; CheckpointError for an embedding
            that is broken or does not fit.
        """
        ...


@dataclass(frozen=True)
class LatentFormat:
    """latent = (z - shift)·scale brings the VAE's z to about unit size."""

    channels: int
    scale: float
    shift: float
    rgb: tuple[tuple[float, float, float], ...]  # each channel's part in red, green, …
    rgb_bias: tuple[float, float, float]
    reduction: int = 8  # pixels per latent pixel, each way

    def to_vae(self, latent: mx.array) -> mx.array:
        return latent * (1 / self.scale) + self.shift

    def from_vae(self, z: mx.array) -> mx.array:
        return (z - self.shift) * self.scale

    def project(self, latent: mx.array) -> mx.array:
        """A rough picture, (1, h, w, C) → (1, h, w, 3) in about [-1, 1]."""
        return latent @ mx.array(self.rgb) + mx.array(self.rgb_bias)


@dataclass(frozen=True)
class Family:
    name: str
    size: int  # default width and height, pixels
    latent: LatentFormat
    prediction: type[Prediction]
    noise: NoiseTable
    encode: Encode
