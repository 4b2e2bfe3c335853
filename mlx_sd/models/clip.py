"""CLIP text encoders: OpenAI's CLIP-L and, with other numbers, OpenCLIP's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..errors import ConfigError
from ..nn.attention import Attention
from ..nn.linear import Linear
from ..nn.norm import LayerNorm

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "quick_gelu": kernels.quick_gelu,
    "gelu": kernels.gelu,
}


@dataclass(frozen=True)
class ClipConfig:
    vocabulary: int
    positions: int  # tokens in a chunk, begin and end marks included: 77
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    projection: int | None  # width of the pooled projection; None: there is none
    eos: int  # id of the end mark; the pooled state is read at its first place

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ConfigError(
                f"text encoder of width {self.width} cannot have {self.heads} heads"
            )
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"unknown activation {self.activation!r}")


class ClipOutput(NamedTuple):
    hidden: mx.array  # (B, L, D)
    pooled: mx.array  # (B, projection or D); computed only if it is used


class ClipLayer(nn.Module):
    """Pre-norm transformer layer with causal attention."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        width = config.width
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, width, config.heads, bias=True)
        self.norm2 = LayerNorm(width)
        self.fc1 = Linear(width, config.mlp_width)
        self.fc2 = Linear(config.mlp_width, width)
        self._activation = ACTIVATIONS[config.activation]

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.attn(self.norm1(x), mask="causal")
        return x + self.fc2(self._activation(self.fc1(self.norm2(x))))


class ClipText(nn.Module):
    """Token ids → states for cross-attention, and one pooled vector.

    Source: Radford et al. 2021 (arXiv 2103.00020), §2.4.
    """

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.positions, config.width)
        self.layers = [ClipLayer(config) for _ in range(config.layers)]
        self.final_norm = LayerNorm(config.width)
        if config.projection is not None:
            self.projection = Linear(config.width, config.projection, bias=False)

    def __call__(
        self,
        tokens: mx.array,
        clip_skip: int = 1,
        normed: bool = True,
        extra: mx.array | None = None,
    ) -> ClipOutput:
        """Encode chunks of tokens.

        Args:
            tokens: (B, L) ids, L at most config.positions.
            clip_skip: 1 takes the last layer's states, 2 the one before it, …
            normed: whether the final norm is applied to those states, as SD 1.x and
                2.x do and SDXL does not.
            extra: (N, D) embeddings of the ids from config.vocabulary on.

        Raises: ConfigError if clip_skip is outside 1 … layers.
        """
        if not 1 <= clip_skip <= len(self.layers):
            raise ConfigError(
                f"clip skip {clip_skip} is outside 1 … {len(self.layers)}, "
                "the text encoder's layers"
            )
        x = self._embed(tokens, extra) + self.position.weight[: tokens.shape[1]]
        states = []
        for layer in self.layers:
            x = layer(x)
            states.append(x)
        hidden = states[-clip_skip]
        end = mx.argmax(tokens == self.config.eos, axis=1)
        last = mx.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        pooled = self.final_norm(last)
        if "projection" in self:
            pooled = self.projection(pooled)
        return ClipOutput(self.final_norm(hidden) if normed else hidden, pooled)

    def _embed(self, tokens: mx.array, extra: mx.array | None) -> mx.array:
        if extra is None:
            return self.token(tokens)
        last = self.config.vocabulary - 1
        own = self.token(mx.minimum(tokens, last))
        added = extra[mx.maximum(tokens - last - 1, 0)].astype(own.dtype)
        return mx.where((tokens > last)[..., None], added, own)
