"""CLIP, UNet and VAE against transformers and diffusers, with the same weights."""

import gc

import mlx.core as mx
import parity
import pytest
import seeded

from mlx_sd.load import open_source

# Relative errors. float16 rounds at 5e-4 and there are dozens of layers.
BOUNDS = {mx.float32: 1e-4, mx.float16: 1e-2}


@pytest.fixture(
    scope="module", params=["small", pytest.param("full", marks=pytest.mark.full)]
)
def size(request):
    return request.param


@pytest.fixture(scope="module")
def source(size, tmp_path_factory, full_checkpoint):
    if size == "full":
        return open_source(full_checkpoint())
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    seeded.save(path, seeded.small_shapes())
    return open_source(path)


@pytest.mark.parametrize("dtype", BOUNDS, ids=["f32", "f16"])
@pytest.mark.parametrize("component", parity.COMPONENTS)
def test_component_matches_its_reference(component, dtype, size, source):
    errors = list(parity.COMPONENTS[component](source, size, dtype))
    gc.collect()
    mx.clear_cache()
    assert errors and max(errors) < BOUNDS[dtype]
