"""Guidance: mixing the predictions of several prompts."""

import mlx.core as mx

from mlx_sd.sampling.guidance import cfg

UNCOND = mx.array([1.0])


def test_guidance_extrapolates_from_uncond_through_cond():
    cond = [(mx.array([3.0]), 1.0)]
    assert cfg(cond, UNCOND, 1.0).item() == 3 and cfg(cond, UNCOND, 7.0).item() == 15


def test_parts_of_a_prompt_add_up_by_their_weights():
    # Liu et al. 2022: each pulls away from uncond on its own.
    conds = [(mx.array([3.0]), 1.0), (mx.array([2.0]), 0.5), (mx.array([5.0]), -1.0)]
    assert cfg(conds, UNCOND, 2.0).item() == 1 + 2 * (2 + 0.5 - 4)
