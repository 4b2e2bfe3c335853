"""What each operation computes, in plain MLX, on every backend and for every type.

Arrays are of one float type, in which the result is, too; only weights may be of
another one, or packed. B batch, H W rows and columns, C channels, L M tokens, D width.
"""

import mlx.core as mx
import mlx.nn as nn

from .packed import Weight, dense


def attention(
    q: mx.array, k: mx.array, v: mx.array, heads: int, mask: str | None = None
) -> mx.array:
    """softmax(q kᵀ / √width) v, head by head.

    Args:
        q: (B, L, D); heads lie beside each other in D.
        k, v: (B, M, D).
        mask: "causal", or None.

    Returns: (B, L, D).
    """
    B, L, D = q.shape
    q, k, v = (_split_heads(y, heads) for y in (q, k, v))
    scale = (D // heads) ** -0.5
    h = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    return h.transpose(0, 2, 1, 3).reshape(B, L, D)


def _split_heads(x: mx.array, heads: int) -> mx.array:
    """(B, L, N·K) → (B, N, L, K)"""
    B, L, D = x.shape
    return x.reshape(B, L, heads, D // heads).transpose(0, 2, 1, 3)


def linear(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    add: mx.array | None = None,
) -> mx.array:
    """x weightᵀ + bias + add: (…, I), (O, I), (O,), (…, O) → (…, O)"""
    w = dense(weight, x.dtype).T
    y = x @ w if bias is None else mx.addmm(bias, x, w)
    return y if add is None else y + add


def conv(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    stride: int = 1,
    padding: int = 1,
) -> mx.array:
    """Two-dimensional convolution: (B, H, W, I), (O, h, w, I), (O,) → (B, H', W', O)"""
    y = mx.conv2d(x, dense(weight, x.dtype), stride, padding)
    return y if bias is None else y + bias


def upsample_conv(
    x: mx.array, weight: Weight, bias: mx.array | None = None
) -> mx.array:
    """Each pixel four times, then a 3x3 convolution: (B, H, W, I) → (B, 2H, 2W, O)"""
    return conv(enlarged(x), weight, bias)


def enlarged(x: mx.array) -> mx.array:
    """(B, H, W, C) → (B, 2H, 2W, C)"""
    return mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)


def group_norm(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    groups: int,
    eps: float,
    silu: bool = False,
) -> mx.array:
    """Normalise groups of neighbouring channels over all pixels, then maybe SiLU.

    MLX's own GroupNorm copies the map into channel-major order and back; here sums run
    over rows first, which keeps channels contiguous, and groups are formed last.

    Args:
        x: (B, H, W, C).
        weight, bias: (C,).

    Returns: (B, H, W, C); statistics are float32.
    """
    y = x.astype(mx.float32)
    y = y - _group_means(y, groups)
    variance = _group_means(mx.square(y), groups)
    y = y * (mx.rsqrt(variance + eps) * weight) + bias
    return (nn.silu(y) if silu else y).astype(x.dtype)


def norm_conv(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None,
    scale: mx.array,
    shift: mx.array,
    groups: int,
    eps: float,
) -> mx.array:
    """Group norm by `scale` and `shift`, SiLU, and a 3x3 convolution."""
    return conv(group_norm(x, scale, shift, groups, eps, silu=True), weight, bias)


def affine_conv(
    x: mx.array, table: mx.array, weight: Weight, bias: mx.array | None
) -> mx.array:
    """SiLU of x·scale + shift, and a 3x3 convolution.

    Args:
        table: (B, 2, C) float32, scale and shift of each channel.
    """
    scale, shift = (part[:, None] for part in mx.split(table, 2, axis=1))
    y = nn.silu(x.astype(mx.float32) * scale + shift)
    return conv(y.astype(x.dtype), weight, bias)


def moments(x: mx.array) -> mx.array:
    """(B, H, W, C) → (B, 2, C) float32, mean and variance of each channel."""
    y = x.astype(mx.float32)
    mean = y.mean(axis=2).mean(axis=1)
    variance = mx.square(y - mean[:, None, None]).mean(axis=2).mean(axis=1)
    return mx.stack([mean, variance], axis=1)


def _group_means(x: mx.array, groups: int) -> mx.array:
    """(B, H, W, C) → (B, 1, 1, C), equal within a group"""
    B, _, _, C = x.shape
    means = x.mean(axis=2).mean(axis=1).reshape(B, groups, -1).mean(axis=-1)
    return mx.repeat(means, C // groups, axis=1)[:, None, None]


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """Normalise each token: (…, D), (D,), (D,) → (…, D)"""
    return mx.fast.layer_norm(x, weight, bias, eps)


def silu(x: mx.array) -> mx.array:
    """x·sigmoid(x)"""
    return nn.silu(x)


def gelu(x: mx.array) -> mx.array:
    """x·Φ(x), Φ being the normal distribution function"""
    return nn.gelu(x)


def quick_gelu(x: mx.array) -> mx.array:
    """OpenAI's approximation of it: x·sigmoid(1.702 x)."""
    return x * mx.sigmoid(1.702 * x)


def geglu(x: mx.array) -> mx.array:
    """The first half times GELU of the second one: (…, 2D) → (…, D)"""
    value, gate = mx.split(x, 2, axis=-1)
    return value * nn.gelu(gate)
