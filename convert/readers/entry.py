"""What every reader yields: a tensor described, and read only when asked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    path: Path
    name: str
    dtype: str  # as safetensors spells it: F32, F16, BF16, I64 …
    shape: tuple[int, ...]
    nbytes: int
    read: Callable[[], mx.array]  # the values; reads the file anew at each call
