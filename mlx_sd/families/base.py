"""What the pipeline asks of a model family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import mlx.core as mx

from ..embeddings import Embeddings
from ..models.clip import ClipText
from ..models.unet import UNet
from ..nn.embed import timestep_embedding
from ..sampling.levels import NoiseTable
from ..sampling.prediction import Prediction
from ..tokenizers.clip import ClipTokenizer
from .text import Reading, encode

_WAVES = 256  # width of the embedding of each number in a vector


@dataclass(frozen=True)
class Conditioning:
    """What a prompt becomes for the UNet."""

    context: mx.array  # (1, L, D) text states, L a multiple of 77
    pooled: mx.array | None = None  # (1, P)
    vector: mx.array | None = None  # (1, width) pooled text and picture sizes


@dataclass(frozen=True)
class PictureSizes:
    """What SDXL is told of a picture, in pixels: (height, width) and (top, left)."""

    original: tuple[int, int]  # before it was scaled and cropped
    crop: tuple[int, int]  # where in the scaled picture the crop begins
    target: tuple[int, int]  # of the crop, the picture to paint


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
    v_size: int  # the same where the UNet predicts velocity
    latent: LatentFormat
    prediction: type[Prediction]
    # Tells a key of PREDICTIONS by what the UNet puts out, in models whose files may
    # leave it open; None: there it is `prediction`.
    probe: Callable[[UNet, mx.Dtype], str] | None
    noise: NoiseTable
    texts: Mapping[str, Reading]  # of the encoders, in the order of their states
    # The numbers that stand in the vector behind the pooled text, of a picture to paint
    # (False) or to avoid (True); None: the UNet takes no vector.
    numbers: Callable[[PictureSizes, bool], tuple[float, ...]] | None
    zero_empty: bool  # whether an empty negative prompt's states, pooled too, are zeros

    def encode(
        self,
        clips: Mapping[str, ClipText],
        tokenizer: ClipTokenizer,
        prompt: str,
        *,
        clip_skip: int | None = None,
        embeddings: Embeddings | None = None,
        comma_padding_backtrack: int = 0,
    ) -> Conditioning:
        """One text, as it is at a step, without a vector yet.

        Args:
            clips: the encoders of `texts`, by name.
            prompt: with emphasis and BREAK. Schedules, alternation and AND are resolved
                before; see tokenizers.PromptPlan.
            clip_skip: the layer that is read, 1 the last, 2 the one before, …; None, 0
                or less: the family's default.
            embeddings: whose names in the prompt stand for their vectors.
            comma_padding_backtrack: see ClipTokenizer.chunks.

        Raises: ConfigError for an option out of range; CheckpointError for an embedding
            that is broken or does not fit.
        """
        return Conditioning(
            *encode(
                self.texts,
                clips,
                tokenizer,
                prompt,
                clip_skip=clip_skip,
                embeddings=embeddings,
                comma_padding_backtrack=comma_padding_backtrack,
            )
        )

    def condition(
        self, text: str, encoded: Conditioning, sizes: PictureSizes, negative: bool
    ) -> Conditioning:
        """What the UNet is given for a text of the prompt, or of the negative one."""
        context, pooled, vector = encoded.context, encoded.pooled, None
        if self.zero_empty and negative and not text:
            # As in A1111, and in diffusers for None; see docs/families.md.
            context = mx.zeros_like(context)
            pooled = None if pooled is None else mx.zeros_like(pooled)
        if self.numbers is not None and pooled is not None:
            numbers = mx.array(self.numbers(sizes, negative))
            waves = timestep_embedding(numbers, _WAVES).reshape(1, -1)
            vector = mx.concatenate([pooled, waves.astype(pooled.dtype)], axis=1)
        return Conditioning(context, pooled, vector)

    @property
    def told(self) -> set[str]:
        """What of PictureSizes stands in the vector, by its fields' names."""
        if self.numbers is None:
            return set()
        zeros = PictureSizes((0, 0), (0, 0), (0, 0))
        usual = self.numbers(zeros, False)
        return {
            field.name
            for field in fields(PictureSizes)
            if self.numbers(replace(zeros, **{field.name: (1, 1)}), False) != usual
        }

    def vector_width(self, pooled: int | None) -> int | None:
        """Of a UNet that fits a pooled text of that width; None: it takes none."""
        if self.numbers is None:
            return None
        sizes = PictureSizes((0, 0), (0, 0), (0, 0))
        return (pooled or 0) + _WAVES * len(self.numbers(sizes, False))
