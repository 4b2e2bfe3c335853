"""The timestep embedding against its formula in float64, and against diffusers."""

import math
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.nn.embed import timestep_embedding

GOLDEN = np.load(Path(__file__).parent / "golden" / "timesteps.npz")


def formula(times: np.ndarray, width: int, max_period: float) -> np.ndarray:
    half = width // 2
    rates = [math.exp(-math.log(max_period) * j / half) for j in range(half)]
    rows = [
        [math.cos(t * r) for r in rates]
        + [math.sin(t * r) for r in rates]
        + [0.0] * (width % 2)
        for t in times.tolist()
    ]
    return np.array(rows)


@pytest.mark.parametrize("width", [2, 3, 5, 64, 256, 320, 321])
@pytest.mark.parametrize("max_period", [100, 1_000, 10_000])
def test_embedding_is_the_formula(width, max_period):
    times = np.array([0, 0.25, 1, 17.5, 481.3, 998.999, 999], np.float32)
    ours = np.array(timestep_embedding(mx.array(times), width, max_period))
    # float32 angles up to 999 carry 999·2^-24 = 6e-5 radian of rounding.
    np.testing.assert_allclose(ours, formula(times, width, max_period), atol=1.5e-4)


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "times"])
def test_embedding_matches_diffusers(name):
    width, max_period = map(int, re.fullmatch(r"d(\d+)_p(\d+)", name).groups())
    ours = timestep_embedding(mx.array(GOLDEN["times"]), width, max_period)
    assert ours.dtype == mx.float32
    np.testing.assert_allclose(np.array(ours), GOLDEN[name], atol=1.5e-4)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.int32])
def test_embedding_computes_in_float32_whatever_comes_in(dtype):
    times = mx.array([0, 3, 480, 512]).astype(dtype)
    exact = timestep_embedding(times.astype(mx.float32), 320)
    assert mx.array_equal(timestep_embedding(times, 320), exact)
