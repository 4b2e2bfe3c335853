"""What the text parts of several families have in common."""

import mlx.core as mx


def weigh(hidden: mx.array, weights: mx.array) -> mx.array:
    """States times their tokens' weights, each chunk then scaled to the mean it had.

    As A1111's "Original" emphasis and stable-diffusion.cpp, whose means also are a
    chunk's. (A1111 encodes the texts of one edited prompt together, and there takes the
    mean over chunks of all of them.) A chunk whose new mean is 0 is not scaled.

    Args:
        hidden: (B, L, D), after the final norm.
        weights: (B, L).

    Returns: as `hidden`; unchanged where all weights are 1.
    """
    # The mean is a small difference of large numbers: float32, and sums of sums.
    states = hidden.astype(mx.float32)
    weighted = states * weights[..., None]
    old, new = (
        x.mean(axis=2, keepdims=True).mean(axis=1, keepdims=True)
        for x in (states, weighted)
    )
    scale = mx.where(new == 0, 1, old / mx.where(new == 0, 1, new))
    changed = (weights != 1).any(axis=1)[:, None, None]
    return mx.where(changed, weighted * scale, states).astype(hidden.dtype)
