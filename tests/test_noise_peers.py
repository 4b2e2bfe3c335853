"""Random numbers, live against torch and diffusers, if installed.

pip install -e '.[peers]'; pytest -m peers tests/test_noise_peers.py
"""

import numpy as np
import pytest
from make_noise import COUNTS

from mlx_sd.sampling.mt19937 import MersenneTwister
from mlx_sd.sampling.noise import latent_noise

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers


def generator(seed: int):
    return torch.Generator("cpu").manual_seed(seed)


def unequal(ours: np.ndarray, theirs) -> int:
    """How many numbers differ in a bit."""
    return int((ours.view(np.int32) != theirs.numpy().view(np.int32)).sum())


@pytest.mark.parametrize("seed", [*range(20), 2**32 - 1, 2**32, 2**64 - 1])
def test_cpu_noise_is_torchs_over_many_sizes_and_calls(seed):
    torchs, ours = generator(seed), MersenneTwister(seed)
    for count in COUNTS:
        theirs = torch.randn(count, generator=torchs)
        assert unequal(ours.normal(count), theirs) == 0, count


def test_every_one_of_16_million_numbers_in_a_row_is_torchs():
    theirs = torch.randn(1 << 24, generator=generator(1))
    assert unequal(MersenneTwister(1).normal(1 << 24), theirs) == 0


@pytest.mark.parametrize("height, width", [(64, 64), (128, 128), (96, 61)])
def test_the_initial_noise_is_that_of_diffusers(height, width):
    tools = pytest.importorskip("diffusers.utils.torch_utils", exc_type=ImportError)
    ours, theirs = MersenneTwister(42), generator(42)
    for _ in range(3):  # the sampler's calls go on with the stream
        drawn = tools.randn_tensor((1, 4, height, width), generator=theirs)
        noise = np.array(latent_noise(ours, height, width, 4)).transpose(0, 3, 1, 2)
        assert unequal(noise, drawn) == 0
