"""Group normalisation for NHWC feature maps."""

import mlx.core as mx
import mlx.nn as nn


class GroupNorm(nn.Module):
    """Normalise groups of neighbouring channels over all pixels (Wu and He 2018).

    MLX's own GroupNorm copies the map into channel-major order and back; here sums run
    over rows first, which keeps channels contiguous, and groups are formed last.
    """

    def __init__(self, channels: int, eps: float, groups: int = 32):
        super().__init__()
        self.weight = mx.ones(channels)
        self.bias = mx.zeros(channels)
        self._groups, self._eps = groups, eps

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, C) → (B, H, W, C), with float32 statistics."""
        y = x.astype(mx.float32)
        y = y - self._group_means(y)
        variance = self._group_means(mx.square(y))
        y = y * (mx.rsqrt(variance + self._eps) * self.weight) + self.bias
        return y.astype(x.dtype)

    def _group_means(self, x: mx.array) -> mx.array:
        """(B, H, W, C) → (B, 1, 1, C), equal within a group"""
        B, _, _, C = x.shape
        means = x.mean(axis=2).mean(axis=1).reshape(B, self._groups, -1).mean(axis=-1)
        return mx.repeat(means, C // self._groups, axis=1)[:, None, None]
