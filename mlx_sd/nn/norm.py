"""Normalisation of feature maps and of tokens."""

from collections.abc import Callable, Iterable

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..kernels.settle import settle
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

    def of_parts(
        self, parts: Iterable[mx.array]
    ) -> Callable[[Conv2d, mx.array], mx.array]:
        """As `into`, with the statistics of a map that is only seen in parts.

        Args:
            parts: each (B, H, W, C), of any H and W; seen once, one after the other.

        Returns: what normalises any pixels of that map, and applies a convolution.
        """
        found, shares = [], []  # moments of each part, and its pixels
        for x in parts:
            found.append(kernels.moments(x))
            shares.append(float(x.shape[1] * x.shape[2]))
            settle(found[-1])
        weights = mx.array(shares).reshape(-1, 1, 1) / sum(shares)
        means, variances = (
            mx.stack([m[:, 0] for m in found]),
            mx.stack([m[:, 1] for m in found]),
        )
        mean = self._over_groups((means * weights).sum(axis=0))
        spread = ((variances + mx.square(means - mean)) * weights).sum(axis=0)
        scale = mx.rsqrt(self._over_groups(spread) + self._eps) * self.weight
        table = mx.stack([scale, self.bias - mean * scale], axis=1)

        def into(conv: Conv2d, x: mx.array) -> mx.array:
            return kernels.affine_conv(x, table, conv.held(), conv.get("bias"))

        return into

    def _over_groups(self, x: mx.array) -> mx.array:
        """(B, C) → (B, C) means, equal within a group"""
        B, C = x.shape
        means = x.reshape(B, self._groups, -1).mean(axis=-1)
        return mx.repeat(means, C // self._groups, axis=1)


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
