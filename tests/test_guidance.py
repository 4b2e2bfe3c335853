"""Guidance: mixing the predictions of several prompts."""

import mlx.core as mx

from mlx_sd.sampling.guidance import cfg


def test_guidance_extrapolates_from_uncond_through_cond():
    cond, uncond = mx.array([3.0]), mx.array([1.0])
    assert cfg(cond, uncond, 1.0).item() == 3 and cfg(cond, uncond, 7.0).item() == 15
