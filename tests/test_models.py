"""CLIP, UNet and VAE against transformers and diffusers, with the same weights."""

import gc

import mlx.core as mx
import parity
import pytest

from mlx_sd.opening import open_source

# Relative errors. float16 rounds at 5e-4 and there are dozens of layers.
BOUNDS = {mx.float32: 1e-4, mx.float16: 1e-2}


full, slow = pytest.mark.full, pytest.mark.slow
CASES = [
    pytest.param("small", mx.float32, id="small-f32"),
    pytest.param("small", mx.float16, id="small-f16"),
    pytest.param("full", mx.float32, id="full-f32", marks=full),
    # Scalar code on a CPU, and more than a minute of it.
    pytest.param("full", mx.float16, id="full-f16", marks=[full, slow]),
]


@pytest.fixture(scope="module")
def size(request):
    return request.param


@pytest.fixture(scope="module")
def source(size, small, full_checkpoint):
    return open_source(full_checkpoint() if size == "full" else small)


@pytest.mark.parametrize("size, dtype", CASES, indirect=["size"])
@pytest.mark.parametrize("component", parity.COMPONENTS)
def test_component_matches_its_reference(component, dtype, size, source):
    errors = list(parity.COMPONENTS[component](source, size, dtype))
    gc.collect()
    mx.clear_cache()
    assert errors and max(errors) < BOUNDS[dtype]
