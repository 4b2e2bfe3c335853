"""Stable Diffusion 2.x: OpenCLIP-H text; 512 pixels, or 768 with velocity prediction.

Its text states are those of the last layer but one, which is the last in its files or
in what is read of them.
"""

from dataclasses import replace

import mlx.core as mx

from ..models.unet import UNet
from .sd1 import SD1
from .text import Reading


def probe(unet: UNet, dtype: mx.Dtype) -> str:
    """What the UNet predicts, "eps" or "v", by its answer to a constant at the end.

    There nearly all is noise: an answer well below the constant is no noise in it, but
    velocity. Source: stable-diffusion.cpp, whose rule and numbers these are.
    """
    config = unet.config
    x = mx.full((1, 8, 8, config.out_channels), 0.5)
    more = mx.zeros((1, 8, 8, config.in_channels - config.out_channels))
    context = mx.full((1, 2, config.context_width), 0.5, dtype=dtype)
    shown = mx.concatenate([x, more], axis=-1).astype(dtype)
    out = unet(shown, mx.array([999.0]), context).astype(mx.float32)
    return "v" if bool(mx.mean(out - x) < -1) else "eps"


SD2 = replace(
    SD1,
    name="SD 2.x",
    v_size=768,
    probe=probe,
    texts={"clip_h": Reading(pad=0, clip_skip=2, normed=True, absent=1)},
)
