"""Multi-head attention, for text, for image positions, and from image to text."""

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from .linear import Linear


class Attention(nn.Module):
    """Queries from x, keys and values from context, which is x itself if not given."""

    def __init__(self, width: int, context_width: int, heads: int, bias: bool):
        super().__init__()
        self.q = Linear(width, width, bias=bias)
        self.k = Linear(context_width, width, bias=bias)
        self.v = Linear(context_width, width, bias=bias)
        self.out = Linear(width, width)
        self._heads = heads

    def __call__(
        self,
        x: mx.array,
        context: mx.array | None = None,
        mask: str | None = None,
        add: mx.array | None = None,
    ) -> mx.array:
        """(B, L, D), context (B, M, E) → (B, L, D), and `add` added to it"""
        context = x if context is None else context
        q, k, v = self.q(x), self.k(context), self.v(context)
        return self.out(kernels.attention(q, k, v, self._heads, mask), add)
