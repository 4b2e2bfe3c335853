"""Guidance: mixing several predictions into one."""

from collections.abc import Sequence

import mlx.core as mx


def cfg(
    conds: Sequence[tuple[mx.array, float]], uncond: mx.array, scale: float
) -> mx.array:
    """Classifier-free guidance: uncond + scale·Σ weight·(cond - uncond).

    Args:
        conds: predictions and their weights; for one of weight 1 and scale 1 the result
            is that prediction.

    Source: Ho and Salimans 2022 (arXiv 2207.12598), eq. 6, with their w = scale - 1;
        several: Liu et al. 2022 (arXiv 2206.01714), eq. 11.
    """
    return uncond + sum((scale * weight) * (cond - uncond) for cond, weight in conds)
