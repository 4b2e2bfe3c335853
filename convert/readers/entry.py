"""What every reader yields: a tensor described, and read only when asked."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...errors import CheckpointError
from ..dtypes import DTYPES

# Far above any model's, and low enough that no list of tensors takes long.
MAX_TENSORS = 50_000  # in a file
MAX_NAME = 500  # letters

_MAX_LENGTH = 2**31 - 1  # of an axis in MLX, and so of what is not yet in its shape


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    path: Path
    name: str
    dtype: str  # a key of DTYPES; other names are kept for `inspect`, but not read
    shape: tuple[int, ...]  # as in torch: the last axis is the innermost
    nbytes: int  # as stored
    raw: Callable[[], np.ndarray]  # the stored bytes, (nbytes,) uint8, maybe mapped
    scale: "Entry | None" = None  # a factor of all values, or one for each row

    def read(self) -> mx.array:
        """The values, in MLX's type for this dtype; reads the file anew at each call.

        With a scale they are float32 and scaled.

        Raises: CheckpointError for a type that we cannot read, or a file that changed.
        """
        if self.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.path}: {self.name} has type {self.dtype}; readable are "
                f"{', '.join(DTYPES)}"
            )
        if max(prod(self.shape), *self.shape, 0) > _MAX_LENGTH:
            raise CheckpointError(
                f"{self.path}: {self.name} of shape {list(self.shape[:16])} is longer "
                f"than the {_MAX_LENGTH} values that MLX can hold"
            )
        values = DTYPES[self.dtype].decode(self.raw()).reshape(self.shape)
        return values if self.scale is None else self._scaled(values, self.scale)

    def _scaled(self, values: mx.array, scale: "Entry") -> mx.array:
        per_row = scale.shape[:1] == self.shape[:1] == (prod(scale.shape),)
        floats = all(entry.dtype.startswith(("F", "BF")) for entry in (self, scale))
        if not floats or not (per_row or prod(scale.shape) == 1):
            raise CheckpointError(
                f"{self.path}: {self.name} of type {self.dtype} cannot be read with a "
                f"{scale.dtype} scale of shape {list(scale.shape)}, only floats with a "
                "scale for the whole or for each row"
            )
        axes = (-1, *[1] * (len(self.shape) - 1)) if per_row else ()
        factors = scale.read().astype(mx.float32).reshape(axes)
        return values.astype(mx.float32) * factors


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
    """The first line of what an error says, fit to be shown."""
    text = error.strerror if isinstance(error, OSError) else None
    line = [*(text or str(error)).splitlines(), type(error).__name__][0][:200]
    return "".join(c if c.isprintable() else "?" for c in line)
