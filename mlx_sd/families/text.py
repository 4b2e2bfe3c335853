"""How prompts become text states: chunks, encoders, emphasis."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from ..embeddings import Embeddings, Vectors
from ..errors import ConfigError
from ..models.clip import ClipOutput, ClipText
from ..tokenizers.clip import ClipTokenizer


@dataclass(frozen=True)
class Reading:
    """How a family reads one of its text encoders."""

    pad: int | None  # id of what follows the end mark; None: the end mark again
    clip_skip: int  # the layer that is read by default; 1: the last
    normed: bool  # whether the final norm is applied to its states
    absent: int = 0  # last layers that clip_skip counts and the model is without

    def __call__(
        self, clip: ClipText, ids: mx.array, clip_skip: int, extra: mx.array | None
    ) -> ClipOutput:
        """The encoder's output for chunks of ids, which are padded with end marks.

        Args:
            clip_skip: 0 or less: the default.

        Raises: ConfigError if the encoder has no such layer.
        """
        skip, eos = clip_skip if clip_skip > 0 else self.clip_skip, clip.config.eos
        layers = len(clip.layers) + self.absent
        if not self.absent < skip <= layers:
            raise ConfigError(
                f"clip skip {skip} is outside {self.absent + 1} … {layers}, the layers "
                "that this model's text encoder can be read at"
            )
        if self.pad is not None:
            ended = mx.cumsum(ids == eos, axis=1)  # 1 at the end mark itself
            ids = mx.where(ended > 1, self.pad, ids)
        return clip(ids, skip - self.absent, self.normed, extra)


class Texts(NamedTuple):
    context: mx.array  # (1, L, D), L a multiple of 77
    pooled: mx.array  # (1, P) of the last encoder and the first chunk


def encode(
    readings: Mapping[str, Reading],
    clips: Mapping[str, ClipText],
    tokenizer: ClipTokenizer,
    prompt: str,
    *,
    clip_skip: int | None,
    embeddings: Embeddings | None,
    comma_padding_backtrack: int,
) -> Texts:
    """A prompt's chunks, read one by one and joined along the sequence.

    The states of several encoders stand side by side, each weighed alone, as in A1111.

    Args:
        readings, clips: by the encoder's name, in the order of their states.
    """
    names = None
    if embeddings is not None:
        widths = {encoder: clip.config.width for encoder, clip in clips.items()}
        first = next(iter(clips.values())).config.vocabulary
        names = Vectors(embeddings, widths, first)
    chunks = tokenizer.chunks(
        prompt, names=names, comma_padding_backtrack=comma_padding_backtrack
    )
    ids = mx.array([chunk.ids for chunk in chunks])
    weights = mx.array([chunk.weights for chunk in chunks])
    states = []
    for encoder, reading in readings.items():
        extra = names.table(encoder) if names else None
        out = reading(clips[encoder], ids, clip_skip or 0, extra)
        states.append(weigh(out.hidden, weights))
    context = mx.concatenate(states, axis=2)
    return Texts(context.reshape(1, -1, context.shape[2]), out.pooled[:1])


def weigh(hidden: mx.array, weights: mx.array) -> mx.array:
    """States times their tokens' weights, each chunk then scaled to the mean it had.

    As A1111's "Original" emphasis and stable-diffusion.cpp, whose means also are a
    chunk's. (A1111 encodes the texts of one edited prompt together, and there takes the
    mean over chunks of all of them.) A chunk whose new mean is 0 is not scaled.

    Args:
        hidden: (B, L, D), after the final norm where there is one.
        weights: (B, L).

    Returns: as `hidden`; unchanged where all weights are 1.
    """
    states = hidden.astype(mx.float32)
    weighted = states * weights[..., None]
    old, new = _mean(states), _mean(weighted)
    scale = mx.where(new == 0, 1, old / mx.where(new == 0, 1, new))
    changed = (weights != 1).any(axis=1)[:, None, None]
    return mx.where(changed, weighted * scale, states).astype(hidden.dtype)


def _mean(x: mx.array) -> mx.array:
    """Of each chunk, (B, 1, 1): a small difference of large numbers.

    In float64, which a CPU has: in float32 a GPU's sums leave it five digits.
    """
    wide = x.astype(mx.float64, stream=mx.cpu)
    return wide.mean(axis=(1, 2), keepdims=True, stream=mx.cpu).astype(
        x.dtype, stream=mx.cpu
    )
