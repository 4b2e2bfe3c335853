"""Guidance: mixing several predictions into one."""

import mlx.core as mx


def cfg(cond: mx.array, uncond: mx.array, scale: float) -> mx.array:
    """Classifier-free guidance: uncond + scale·(cond - uncond).

    At scale 1 the result is `cond`. Source: Ho and Salimans 2022 (arXiv 2207.12598),
    eq. 6, with their w = scale - 1.
    """
    return uncond + scale * (cond - uncond)
