"""How a foreign tensor is laid out, and how we lay it out, in both directions."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """`shape` foretells what `ours` does, so that configs need no tensor data."""

    shape: Callable[[Shape], Shape]
    ours: Callable[[mx.array], mx.array]
    theirs: Callable[..., mx.array]  # of all the parameters that share the tensor


SAME = Layout(shape=lambda s: s, ours=lambda x: x, theirs=lambda x: x)

# Convolution weights: (out, in, rows, columns) ↔ (out, rows, columns, in).
CONV = Layout(
    shape=lambda s: (s[0], s[2], s[3], s[1]) if len(s) == 4 else s,
    ours=lambda x: x.transpose(0, 2, 3, 1) if x.ndim == 4 else x,
    theirs=lambda x: x.transpose(0, 3, 1, 2) if x.ndim == 4 else x,
)

# 1x1 convolutions, which we hold as linear layers; files with linear ones fit as well.
POINT = Layout(
    shape=lambda s: s[:2] if s[2:] == (1, 1) else s,
    ours=lambda x: x.reshape(x.shape[:2]) if x.shape[2:] == (1, 1) else x,
    theirs=lambda x: x[..., None, None] if x.ndim == 2 else x,
)

# Linear layers; files with 1x1 convolutions in their place fit as well.
LINEAR = Layout(shape=POINT.shape, ours=POINT.ours, theirs=lambda x: x)

# Matrices that their owner applies as x·P, and a linear layer as x·Wᵀ.
TRANSPOSED = Layout(
    shape=lambda s: s[::-1],
    ours=lambda x: x.transpose(),
    theirs=lambda x: x.transpose(),
)

# Several parameters in one tensor, one below the other; each is given its own rows.
ROWS = Layout(
    shape=lambda s: s,
    ours=lambda x: x,
    theirs=lambda *shares: mx.concatenate(list(shares)),
)
