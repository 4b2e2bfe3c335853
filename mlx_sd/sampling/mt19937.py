"""torch's normal numbers on a CPU, from the Mersenne twister."""

import math

import numpy as np

from .elementary import log, sincos

BLOCK = 16  # torch makes this many numbers at a time, eight pairs


class MersenneTwister:
    """Unit noise as `torch.randn` draws it on a CPU, and so diffusers and ComfyUI.

    Bit for bit what torch gives in float32 on an x86 processor with AVX2; elsewhere
    its logarithm and cosine may differ in the last bit. Only the low 32 bits of a seed
    count, as in torch.

    Source: Matsumoto and Nishimura 1998, "Mersenne Twister"; Box and Muller 1958.
    """

    def __init__(self, seed: int):
        self._words = np.random.MT19937()
        # NumPy's legacy seeding is that of the authors, and of torch.
        np.random.RandomState(self._words).seed(seed & 0xFFFFFFFF)
        self._spare: float | None = None  # the second of a pair, for the next call

    def normal(self, count: int) -> np.ndarray:
        if count < BLOCK:
            return np.array([self._single() for _ in range(count)], np.float32)
        uniform = self._uniform(count)
        out = np.empty(count, np.float32)
        whole = count - count % BLOCK
        out[:whole] = _blocks(uniform[:whole])
        if whole < count:  # the last block is drawn anew, over the end of that before
            out[-BLOCK:] = _blocks(self._uniform(BLOCK))
        return out

    def _uniform(self, count: int) -> np.ndarray:
        """float32 from 0 to below 1, of 24 bits."""
        words = self._words.random_raw(count) & 0xFFFFFF
        return words.astype(np.float32) * np.float32(2**-24)

    def _double(self) -> float:
        """From 0 to below 1, of 53 bits."""
        high, low = self._words.random_raw(2)
        return (int(high) << 32 | int(low)) % 2**53 / 2**53

    def _single(self) -> float:
        """One of a pair that is made in float64."""
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        turn, u = self._double(), self._double()
        radius, angle = math.sqrt(-2 * math.log1p(-u)), 2 * math.pi * turn
        self._spare = radius * math.sin(angle)
        return radius * math.cos(angle)


def _blocks(uniform: np.ndarray) -> np.ndarray:
    """Each block's first half gives radii, its second angles; (n·16,) → (n·16,)."""
    radius, turn = uniform.reshape(-1, 2, BLOCK // 2).swapaxes(0, 1)
    radius = np.sqrt(np.float32(-2) * log(np.float32(1) - radius))
    sin, cos = sincos(np.float32(2 * math.pi) * turn)
    pairs = np.stack([radius * cos, radius * sin], axis=1).reshape(-1)
    return pairs + np.float32(0)  # torch's mean, which turns -0 into 0
