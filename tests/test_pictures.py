"""Whole pictures at full SD 1.5 size, against diffusers and stable-diffusion.cpp."""

import parity
import pytest

from mlx_sd import load

pytestmark = [pytest.mark.full, pytest.mark.slow]


@pytest.fixture(scope="module")
def pipeline(full_checkpoint):
    return load(full_checkpoint(), dtype="f32")


# The default run has the same of narrow models, in test_small_families.py, and each of
# the full-size networks, in test_models.py.
@pytest.mark.parametrize("name", parity.REQUESTS)
def test_picture_matches_both_peers(pipeline, name):
    latent, diffusers, cpp = parity.picture(pipeline, name)
    # float32 rounding, enlarged by guidance and by a network that does not denoise.
    assert latent < 1e-4
    assert diffusers >= 55
    # Its GELU, norm epsilons and float16 convolutions differ from diffusers'.
    assert cpp >= 45
