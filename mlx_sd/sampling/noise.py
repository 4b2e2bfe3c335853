"""Seeded noise that is the same on every machine and backend."""

from collections.abc import Callable, Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np

from . import noise_cuda
from .elementary import log, sincos
from .mt19937 import MersenneTwister

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.uint32)  # added to the key each round


class Rng(Protocol):
    def normal(self, count: int) -> np.ndarray:
        """(count,) float32, unit normal; the stream goes on at the next call."""


class Philox:
    """Unit noise as torch draws it on an NVIDIA GPU; A1111 calls it "NV".

    Philox4x32-10 counts (call, 0, element, 0) under the seed as key, and Box and Muller
    turn its first two words into one normal number.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """

    def __init__(self, seed: int):
        self._seed = seed & 0xFFFFFFFFFFFFFFFF
        self._call = 0

    def normal(self, count: int) -> np.ndarray:
        element, zero = np.arange(count, dtype=np.uint32), np.zeros(count, np.uint32)
        call = np.full(count, self._call, np.uint32)
        key = np.array([self._seed & 0xFFFFFFFF, self._seed >> 32], np.uint32)
        words = philox((call, zero, element, zero), key)
        self._call += 1
        # The constants are single-precision in the original: 2^-32 and 2π·2^-32.
        scale = np.float32(2.3283064e-10)
        turn = scale * np.float32(6.2831855)
        u = words[0].astype(np.float32) * scale + scale / 2
        v = words[1].astype(np.float32) * turn + turn / 2
        sin, _ = sincos(v)
        return np.sqrt(np.float32(-2) * log(u)) * sin

    def drawn(self, count: int) -> mx.array:
        """The same, in MLX's memory; an NVIDIA GPU draws it itself."""
        if not noise_cuda.here():
            return mx.array(self.normal(count))
        self._call += 1
        return noise_cuda.normal(self._seed, self._call - 1, count)


def philox(counter: Sequence[np.ndarray], key: np.ndarray) -> list[np.ndarray]:
    """Philox4x32-10: four words of a counter → four random ones, each (count,) uint32.

    Args:
        key: (2,) uint32.
    """
    a, b, c, d = counter
    for round_ in range(10):
        k = key + _WEYL * np.uint32(round_)
        low_a, high_a = _product(a, _MULTIPLIERS[0])
        low_c, high_c = _product(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ k[0], low_c, high_a ^ d ^ k[1], low_a
    return [a, b, c, d]


def _product(words: np.ndarray, by: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """The low and the high halves of 64-bit products."""
    product = np.multiply(words, by, dtype="<u8").view("<u4")
    return product[::2], product[1::2]


RNGS: dict[str, Callable[[int], Rng]] = {"cuda": Philox, "cpu": MersenneTwister}


def generators(rng: str, sampler_rng: str | None, seed: int) -> tuple[Rng, Rng]:
    """What draws the initial noise, and what draws a sampler's.

    One and the same, whose stream goes on, unless `sampler_rng` names another kind;
    that starts from the seed anew. Both names are keys of RNGS.
    """
    initial = RNGS[rng](seed)
    if sampler_rng in (None, rng):
        return initial, initial
    return initial, RNGS[sampler_rng](seed)


def latent_noise(rng: Rng, height: int, width: int, channels: int) -> mx.array:
    """(1, height, width, channels) float32 unit noise.

    Numbers are drawn in the order of torch's (channels, height, width), so that a seed
    means the same picture as elsewhere.
    """
    count = channels * height * width
    flat = rng.drawn(count) if isinstance(rng, Philox) else mx.array(rng.normal(count))
    return flat.reshape(1, channels, height, width).transpose(0, 2, 3, 1)
