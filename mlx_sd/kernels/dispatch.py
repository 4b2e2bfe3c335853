"""Which variant of an operation runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, ParamSpec

import mlx.core as mx

P = ParamSpec("P")


BACKENDS = ("cpu", "cuda", "metal")


def always(*_: object, **__: object) -> bool:
    return True


def backend() -> str:
    """ "cpu", "cuda" or "metal": where MLX computes by default."""
    if mx.default_device().type == mx.DeviceType.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


@dataclass(frozen=True)
class Variant(Generic[P]):
    """A faster way, on one backend, for the arguments that it fits."""

    backend: str
    fits: Callable[P, bool]  # of the operation's arguments, without evaluating them
    run: Callable[P, mx.array]


class Operation(Generic[P]):
    """A function of arrays: the first variant that fits, or else the reference."""

    def __init__(self, reference: Callable[P, mx.array], *variants: Variant[P]):
        self.reference = reference
        self.variants = variants
        self.__doc__ = reference.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> mx.array:
        here = backend()
        for variant in self.variants:
            if variant.backend == here and variant.fits(*args, **kwargs):
                return variant.run(*args, **kwargs)
        return self.reference(*args, **kwargs)
