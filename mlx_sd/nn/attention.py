"""Multi-head attention, for text, for image positions, and from image to text."""

import mlx.core as mx
import mlx.nn as nn


def split_heads(x: mx.array, heads: int) -> mx.array:
    """(B, L, N·K) → (B, N, L, K)"""
    B, L, D = x.shape
    return x.reshape(B, L, heads, D // heads).transpose(0, 2, 1, 3)


class Attention(nn.Module):
    """Queries from x, keys and values from context, which is x itself if not given."""

    def __init__(self, width: int, context_width: int, heads: int, bias: bool):
        super().__init__()
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(context_width, width, bias=bias)
        self.v = nn.Linear(context_width, width, bias=bias)
        self.out = nn.Linear(width, width)
        self._heads = heads

    def __call__(
        self, x: mx.array, context: mx.array | None = None, mask: str | None = None
    ) -> mx.array:
        """(B, L, D), context (B, M, E) → (B, L, D)"""
        B, L, D = x.shape
        context = x if context is None else context
        q, k, v = (
            split_heads(y, self._heads)
            for y in (self.q(x), self.k(context), self.v(context))
        )
        scale = (D // self._heads) ** -0.5
        h = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
        return self.out(h.transpose(0, 2, 1, 3).reshape(B, L, D))
