"""Stable Diffusion 1.x: CLIP-L text, noise prediction, 512 x 512 pixels."""

from ..sampling.levels import scaled_linear
from ..sampling.prediction import Eps
from .base import Family, LatentFormat
from .text import Reading

SD1 = Family(
    name="SD 1.x",
    size=512,
    v_size=512,
    latent=LatentFormat(
        channels=4,
        scale=0.18215,
        shift=0.0,
        rgb=(  # of stable-diffusion.cpp, for a preview
            (0.337366, 0.216344, 0.257386),
            (0.165636, 0.386828, 0.046994),
            (-0.267803, 0.237036, 0.223517),
            (-0.178022, -0.200862, -0.678514),
        ),
        rgb_bias=(-0.017478, -0.055834, -0.105825),
    ),
    prediction=Eps,
    probe=None,
    noise=scaled_linear(),
    texts={"clip_l": Reading(pad=None, clip_skip=1, normed=True)},
    numbers=None,
    zero_empty=False,
)
