"""Attention of heads that are too wide to be fused, some queries at a time.

For Metal and CUDA, where MLX would hold the scores of all. At 2048x2048 pixels it even
divides by their number, which is 0 in 32 bits.
"""

import mlx.core as mx

from . import reference
from .settle import settle

_FUSED = 128  # the widest head that is
_ROWS = 1024  # queries at a time
_MOST = 1 << 24  # scores of a head; more are computed in parts


def fits(
    q: mx.array, k: mx.array, v: mx.array, heads: int, mask: str | None = None
) -> bool:
    """The VAE's head of 512, whose scores at 1024x1024 would take 0.5 GB; and SD 1.x's
    of 160 in pictures beyond 2048x2048."""
    scores = q.shape[1] * k.shape[1]
    return mask is None and q.shape[-1] // heads > _FUSED and scores > _MOST


def attention(
    q: mx.array, k: mx.array, v: mx.array, heads: int, mask: str | None = None
) -> mx.array:
    parts = []
    for start in range(0, q.shape[1], _ROWS):
        parts.append(reference.attention(q[:, start : start + _ROWS], k, v, heads))
        settle(parts[-1])  # else MLX may hold the scores of several parts at once
    return mx.concatenate(parts, axis=1)
