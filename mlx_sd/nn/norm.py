"""Normalisation of feature maps and of tokens."""

import mlx.core as mx
import mlx.nn as nn

from .. import kernels


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
