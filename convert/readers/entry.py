"""What every reader yields: a tensor described, and read only when asked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...errors import CheckpointError
from ..dtypes import DTYPES


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    path: Path
    name: str
    dtype: str  # a key of DTYPES; other names are kept for `inspect`, but not read
    shape: tuple[int, ...]  # as in torch: the last axis is the innermost
    nbytes: int  # as stored
    raw: Callable[[], np.ndarray]  # the stored bytes, (nbytes,) uint8, maybe mapped

    def read(self) -> mx.array:
        """The values, in MLX's type for this dtype; reads the file anew at each call.

        Raises: CheckpointError for a type that we cannot read, or a file that changed.
        """
        if self.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.path}: {self.name} has type {self.dtype}; readable are "
                f"{', '.join(DTYPES)}"
            )
        return DTYPES[self.dtype].decode(self.raw()).reshape(self.shape)


def map_bytes(path: Path, name: str, offset: int, nbytes: int) -> np.ndarray:
    """A tensor's stored bytes, (nbytes,) uint8, mapped from the file.

    A map of this tensor alone, dropped once copied, keeps the file's pages out of the
    process while hundreds of tensors are read one after another.
    """
    if not nbytes:
        return np.empty(0, np.uint8)
    try:
        return np.memmap(path, np.uint8, mode="r", offset=offset, shape=(nbytes,))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {name} cannot be read ({reason(error)}); "
            "has the file changed since it was opened?"
        ) from error


def reason(error: Exception) -> str:
    """The first line of what an error says."""
    text = error.strerror if isinstance(error, OSError) else None
    return (text or str(error) or type(error).__name__).splitlines()[0]
