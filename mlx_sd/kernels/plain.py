"""The operations on a CPU in MLX's own: where there is no C compiler.

MLX's loops for x86 use no vector instructions, and an exponential takes 75 times as
long as a product; but products of matrices are fast. So exponentials are polynomials
here, attention is computed some queries at a time, and convolutions some rows at a
time, which keeps what they gather in memory that is at hand.
"""

import mlx.core as mx

from . import reference
from .packed import Weight, dense

_QUERIES = 512  # of attention at a time
_GATHERED = 1 << 24  # numbers that a convolution may gather at a time


def ready(x: mx.array, *_: object, **__: object) -> bool:
    return x.dtype == mx.float32 and x.size > 0


def attention_fits(
    q: mx.array, k: mx.array, v: mx.array, heads: int, mask: str | None = None
) -> bool:
    return mask is None and ready(q)


def attention(
    q: mx.array, k: mx.array, v: mx.array, heads: int, mask: str | None = None
) -> mx.array:
    """Head by head; the sum of a row of softmax is one more column of v."""
    B, _, D = q.shape
    scaled = q * (D // heads) ** -0.5
    q, k, v = (y.reshape(B, -1, heads, D // heads) for y in (scaled, k, v))
    out = [
        [_attended(q[b, :, h], k[b, :, h], v[b, :, h]) for h in range(heads)]
        for b in range(B)
    ]
    return mx.stack([mx.concatenate(one, axis=-1) for one in out])


def _attended(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """(L, d), (M, d), (M, d) → (L, d)"""
    k = mx.contiguous(k.T)
    v = mx.concatenate([v, mx.ones((len(v), 1))], axis=1)
    rows = []
    for start in range(0, len(q), _QUERIES):
        scores = mx.contiguous(q[start : start + _QUERIES]) @ k
        sums = _power(scores - _largest(scores)) @ v
        rows.append(sums[:, :-1] / sums[:, -1:])
        mx.eval(rows[-1])
    return mx.concatenate(rows)


def _largest(x: mx.array) -> mx.array:
    """(n, M) → (n, 1); MLX needs a quarter of the time for maxima of columns."""
    if x.shape[1] % 64 == 0:
        x = x.reshape(len(x), 64, -1).max(axis=1)
    return x.max(axis=1, keepdims=True)


def _power(x: mx.array) -> mx.array:
    """e^x to 3e-7 of 1 for x up to 1, and near enough for 1 / (1 + e^x) beyond.

    It is the 64th power of four terms of the series of e^(x/64).
    """
    t = mx.maximum(x * (1 / 64), -1.0)
    y = (1.0 + t) + mx.square(t) * (0.5 + t * (1 / 6) + mx.square(t) * (1 / 24))
    for _ in range(6):
        y = mx.square(y)
    return y


def silu(x: mx.array) -> mx.array:
    return _swish(x, 1.0)


def quick_gelu(x: mx.array) -> mx.array:
    return _swish(x, 1.702)


def _swish(x: mx.array, factor: float) -> mx.array:
    return x / (1.0 + _power(-factor * x))


def gelu(x: mx.array) -> mx.array:
    """With the error function of Abramowitz and Stegun 7.1.26, to 1.5e-7."""
    size = mx.abs(x)
    t = 1.0 / (1.0 + size * 0.231641888)
    p = t * 1.061405429 - 1.453152027
    for coefficient in (1.421413741, -0.284496736, 0.254829592):
        p = p * t + coefficient
    return mx.maximum(x, 0.0) - 0.5 * size * (p * t * _power(mx.square(x) * -0.5))


def geglu(x: mx.array) -> mx.array:
    value, gate = mx.split(x, 2, axis=-1)
    return value * gelu(gate)


def group_norm(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    groups: int,
    eps: float,
    silu: bool = False,
) -> mx.array:
    y = reference.group_norm(x, weight, bias, groups, eps)
    return _swish(y, 1.0) if silu else y


def conv(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    stride: int = 1,
    padding: int = 1,
) -> mx.array:
    y = _conv(x, dense(weight, x.dtype), stride, (padding, padding), (padding, padding))
    return y if bias is None else y + bias


def _conv(
    x: mx.array,
    weight: mx.array,
    stride: int,
    down: tuple[int, int],
    across: tuple[int, int],
) -> mx.array:
    """Some rows of the result at a time.

    Args:
        down, across: zeros before the first row or column, and behind the last.
    """
    B, H, W, C = x.shape
    _, high, wide, _ = weight.shape
    height = (H + sum(down) - high) // stride + 1
    count = max(_GATHERED // (B * W * C * high * wide) * stride, 1)
    parts = []
    for start in range(0, height, count):
        top = start * stride - down[0]
        bottom = (min(start + count, height) - 1) * stride - down[0] + high
        beyond = (max(-top, 0), max(bottom - H, 0))
        part = x[:, max(top, 0) : min(bottom, H)]
        edges = [beyond[0], across[0]], [beyond[1], across[1]]
        parts.append(mx.conv_general(part, weight, stride, edges))
        mx.eval(parts[-1])
    return mx.concatenate(parts, axis=1)


def upsample_conv(
    x: mx.array, weight: Weight, bias: mx.array | None = None
) -> mx.array:
    """As four convolutions of 2x2 pixels of x, one for each of four new ones.

    Two of three neighbours of a new pixel are copies of one, so their weights add up.
    """
    B, H, W, _ = x.shape
    w = dense(weight, x.dtype)
    rows = []
    for down, high in _halves(w, 1):
        pixels = [_conv(x, both, 1, down, across) for across, both in _halves(high, 2)]
        rows.append(mx.stack(pixels, axis=3))
    y = mx.stack(rows, axis=2).reshape(B, 2 * H, 2 * W, -1)
    return y if bias is None else y + bias


def _halves(weight: mx.array, axis: int) -> list[tuple[tuple[int, int], mx.array]]:
    """Of three weights along an axis, for the first new pixel and for the second:
    the zeros beside x that they want, and what two weights they come to."""
    a, b, c = mx.split(weight, 3, axis=axis)
    return [
        ((1, 0), mx.concatenate([a, b + c], axis=axis)),
        ((0, 1), mx.concatenate([a + b, c], axis=axis)),
    ]
