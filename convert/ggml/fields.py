"""What encoders share: their shape, and codes of a few bits joined into bytes."""

from collections.abc import Callable

import numpy as np

# (n, values) float32 → the fields of n blocks by their names in BLOCKS, blocks last.
Encode = Callable[[np.ndarray], dict[str, np.ndarray]]


def joined(codes: np.ndarray, width: int, run: int) -> np.ndarray:
    """(N, n) codes of `width` bits → (N·width/8, n) bytes.

    `run` bytes hold 8/width runs of `run` codes, the first of them in the low bits.
    """
    runs = codes.reshape(-1, 8 // width, run, codes.shape[1])
    packed = runs[:, 0].copy()
    for place in range(1, 8 // width):
        packed |= runs[:, place] << (width * place)
    return packed.reshape(-1, codes.shape[1])
