"""Sinusoidal embeddings of numbers, and the two-layer network that follows them."""

import math

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from .linear import Linear


def timestep_embedding(
    t: mx.array, width: int, max_period: float = 10_000.0
) -> mx.array:
    """Cosines, then sines, of each timestep at geometrically falling frequencies.

    Written with arange, exp, cos and sin alone, which every MLX backend has.

    Args:
        t: (B,) timesteps, whole or fractional, of any real type.
        width: size of the embedding, at least 2; an odd one ends in a zero.
        max_period: the longest wavelength is 2π·max_period, at most.

    Returns: (B, width) float32: with f_j = max_period^(-j/h) and h = width // 2,
        [cos(t f_0) … cos(t f_(h-1)), sin(t f_0) … sin(t f_(h-1))].
    Source: Ho et al. 2020 (arXiv 2006.11239), in LDM's order, cosine first.
    """
    half = width // 2
    # In float16 a timestep of 999 would carry an error of half a radian.
    rates = mx.exp(mx.arange(half, dtype=mx.float32) * (-math.log(max_period) / half))
    angles = t.astype(mx.float32)[:, None] * rates
    waves = mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)
    return mx.pad(waves, [(0, 0), (0, width % 2)])


def guidance_embedding(scale: float, width: int) -> mx.array:
    """What LCM's UNet is told of the guidance that it was distilled with.

    Args:
        scale: cfg scale; the network knows it by how far it goes beyond 1.
        width: size of the embedding, even and at least 4.

    Returns: (1, width) float32: with w = 1000·(scale - 1), h = width // 2 and
        f_j = 10000^(-j/(h - 1)), [sin(w f_0) … sin(w f_(h-1)), cos(w f_0) …].
    Source: Luo et al. 2023 (arXiv 2310.04378), in diffusers' order, sine first.
    """
    half = width // 2
    # In Python, as float32 sines of thousands would be off in the fourth digit.
    angles = [1000 * (scale - 1) * 10_000 ** (-j / (half - 1)) for j in range(half)]
    return mx.array([[*map(math.sin, angles), *map(math.cos, angles)]])


class EmbeddingMLP(nn.Module):
    """Linear, SiLU, linear: (B, width_in) → (B, width)."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.layers = [Linear(width_in, width), Linear(width, width)]

    def __call__(self, x: mx.array) -> mx.array:
        return self.layers[1](kernels.silu(self.layers[0](x)))
