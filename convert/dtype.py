"""What a type of a file's numbers is to us."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class DType:
    """Values are stored in blocks of `block` values and `size` bytes."""

    block: int
    size: int
    decode: Callable[[np.ndarray], mx.array]  # whole blocks of bytes → flat values
