"""Normalisation of feature maps and of tokens."""

from collections.abc import Callable, Iterable

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from .linear import Conv2d


class GroupNorm(nn.Module):
    """Normalise groups of neighbouring channels over all pixels (Wu and He 2018)."""

    def __init__(self, channels: int, eps: float, groups: int = 32):
        super().__init__()
        self.weight = mx.ones(channels)
        self.bias = mx.zeros(channels)
        self._groups, self._eps = groups, eps

    def __call__(self, x: mx.array, silu: bool = False) -> mx.array:
        """(B, H, W, C) → (B, H, W, C), with SiLU behind it if `silu`."""
        return kernels.group_norm(
            x, self.weight, self.bias, self._groups, self._eps, silu
        )

    def into(self, conv: Conv2d, x: mx.array) -> mx.array:
        """conv(self(x, silu=True)), for a size of 3 and a padding of 1 alone."""
        weight, bias = conv.held(), conv.get("bias")
        return kernels.norm_conv(
            x, weight, bias, self.weight, self.bias, self._groups, self._eps
        )

    def of_parts(self, parts: Iterable[mx.array]) -> Callable[[mx.array], mx.array]:
        """This norm and SiLU, with the statistics of a map that is only seen in parts.

        Args:
            parts: each (B, H, W, C), of any H and W; seen once, one after the other.

        Returns: what normalises any pixels of that map, with SiLU behind it.
        """
        shares, means, variances = [], [], []  # of each part, by channel
        for x in parts:
            y = x.astype(mx.float32)
            means.append(_over_pixels(y))
            variances.append(_over_pixels(mx.square(y - means[-1])))
            shares.append(float(x.shape[1] * x.shape[2]))
            mx.eval(means[-1], variances[-1])
        weights = mx.array(shares).reshape(1, -1, 1, 1) * (len(shares) / sum(shares))
        centre, spread = (mx.concatenate(m, axis=1) for m in (means, variances))
        mean = self._over_groups(centre * weights)
        spread = spread + mx.square(centre - mean)
        scale = mx.rsqrt(self._over_groups(spread * weights) + self._eps) * self.weight

        def norm(x: mx.array) -> mx.array:
            y = (x.astype(mx.float32) - mean) * scale + self.bias
            return kernels.silu(y).astype(x.dtype)

        return norm

    def _over_groups(self, x: mx.array) -> mx.array:
        """(B, n, 1, C) → (B, 1, 1, C) means over n, equal within a group"""
        B, _, _, C = x.shape
        means = x.mean(axis=1).reshape(B, self._groups, -1).mean(axis=-1)
        return mx.repeat(means, C // self._groups, axis=1)[:, None, None]


class LayerNorm(nn.Module):
    """Normalise each token over its width (Ba et al. 2016)."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight = mx.ones(width)
        self.bias = mx.zeros(width)
        self._eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """(…, D) → (…, D)"""
        return kernels.layer_norm(x, self.weight, self.bias, self._eps)


def _over_pixels(x: mx.array) -> mx.array:
    """(B, H, W, C) → (B, 1, 1, C) means"""
    return x.mean(axis=2, keepdims=True).mean(axis=1, keepdims=True)
