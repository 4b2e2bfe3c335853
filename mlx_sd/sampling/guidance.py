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


def picture_cfg(uncond: mx.array, blind: mx.array, scale: float) -> mx.array:
    """What to add to the result of `cfg` for a UNet that is shown a picture to edit.

    Args:
        uncond: the prediction for the negative prompt and the picture.
        blind: that for the negative prompt without a picture.
        scale: how closely to keep to the picture; 1 adds nothing.

    Source: Brooks et al. 2022 (arXiv 2211.09800), eq. 3.
    """
    return (scale - 1) * (uncond - blind)
