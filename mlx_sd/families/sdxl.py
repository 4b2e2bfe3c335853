"""SDXL: CLIP-L and OpenCLIP-bigG, told of the picture's size, 1024 x 1024 pixels.

Source: Podell et al. 2023 (arXiv 2307.01952), sections 2.1 and 2.2.
"""

from dataclasses import replace

from ..sampling.levels import scaled_linear
from ..sampling.prediction import Eps
from .base import Family, LatentFormat, PictureSizes
from .text import Reading

_BIG_G = Reading(pad=0, clip_skip=2, normed=False)

# How well liked the picture is to be, of 10, as the refiner is told; diffusers' values.
_LIKED, _DISLIKED = 6.0, 2.5


def _sizes(sizes: PictureSizes, negative: bool) -> tuple[float, ...]:
    return *sizes.original, *sizes.crop, *sizes.target


def _sizes_and_score(sizes: PictureSizes, negative: bool) -> tuple[float, ...]:
    return *sizes.original, *sizes.crop, _DISLIKED if negative else _LIKED


SDXL = Family(
    name="SDXL",
    size=1024,
    v_size=1024,
    latent=LatentFormat(
        channels=4,
        scale=0.13025,
        shift=0.0,
        rgb=(  # of stable-diffusion.cpp, for a preview
            (0.258303, 0.277640, 0.329699),
            (-0.299701, 0.105446, 0.014194),
            (0.050522, 0.186163, -0.143257),
            (-0.211938, -0.149892, -0.080036),
        ),
        rgb_bias=(0.144381, -0.033313, 0.007061),
    ),
    prediction=Eps,
    probe=None,
    noise=scaled_linear(),
    texts={
        "clip_l": Reading(pad=None, clip_skip=2, normed=False),
        "clip_g": _BIG_G,
    },
    numbers=_sizes,
    zero_empty=True,
)

REFINER = replace(
    SDXL,
    name="SDXL Refiner",
    texts={"clip_g": _BIG_G},
    numbers=_sizes_and_score,
    zero_empty=False,
)
