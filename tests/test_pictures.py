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
    ("name", "sampling_method", "scheduler"),
    [
        ("euler", "euler", "discrete"),
        ("euler_a", "euler_a", "discrete"),
        ("dpmpp2m_karras", "dpm++2m", "karras"),
    ],
)
def test_picture_matches_both_peers(pipeline, name, sampling_method, scheduler):
    request = Request(
        **BASE.to_dict() | {"sampling_method": sampling_method, "scheduler": scheduler}
    )
    *_, last, picture = pipeline.stream(request)
    ours = np.asarray(picture.image)
    golden = np.load(GOLDEN / f"picture_{name}.npz")
    latent = np.array(last.denoised).transpose(0, 3, 1, 2)
    # float32 rounding, enlarged by guidance and by a network that does not denoise.
    assert np.linalg.norm(latent - golden["latent"]) < 1e-4 * np.linalg.norm(latent)
    assert psnr(ours, golden["picture"]) >= 55
    # Its GELU, norm epsilons and float16 convolutions differ from diffusers'.
    cpp = np.asarray(Image.open(GOLDEN / f"sdcpp_{name}.png").convert("RGB"))
    assert psnr(ours, cpp) >= 45
