"""Whole pictures at full SD 1.5 size, against diffusers and stable-diffusion.cpp.

256x256 pixels, 4 steps, guidance 7, seed 42, the same made weights: see golden/.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sd import Request, load

GOLDEN = Path(__file__).parent / "golden"
BASE = Request(
    prompt="a red house and a green tree under a night sky",
    negative_prompt="blurry",
    width=256,
    height=256,
    steps=4,
)

pytestmark = pytest.mark.full


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB, of 8-bit pictures of one shape."""
    assert a.shape == b.shape
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


@pytest.fixture(scope="module")
def pipeline(full_checkpoint):
    return load(full_checkpoint(), dtype="f32")


@pytest.mark.parametrize(
    ("golden", "sampling_method", "scheduler"),
    [
        ("euler", "euler", "discrete"),
        ("euler_a", "euler_a", "discrete"),
        ("dpmpp2m_karras", "dpm++2m", "karras"),
    ],
)
def test_picture_matches_both_peers(pipeline, golden, sampling_method, scheduler):
    request = Request(
        **BASE.to_dict() | {"sampling_method": sampling_method, "scheduler": scheduler}
    )
    (image,) = pipeline(request)
    ours = np.asarray(image)
    diffusers = np.load(GOLDEN / f"picture_{golden}.npz")["picture"]
    assert psnr(ours, diffusers) >= 55
    # Its GELU, norm epsilons and float16 convolutions differ from diffusers'.
    cpp = np.asarray(Image.open(GOLDEN / f"sdcpp_{golden}.png").convert("RGB"))
    assert psnr(ours, cpp) >= 45
