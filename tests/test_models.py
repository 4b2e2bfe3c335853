"""CLIP, UNet and VAE against transformers and diffusers, with the same weights."""

import gc
from dataclasses import replace

import mlx.core as mx
import numpy as np
import parity
import pytest
from test_cuda import UNET

from mlx_sd.models.unet import Deep, UNet
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


@pytest.mark.parametrize("only_cross", [False, True])
@pytest.mark.parametrize("vector", [None, 24])
@pytest.mark.parametrize("kept", [False, True])
def test_a_latent_for_several_texts_is_as_one_for_each(only_cross, vector, kept):
    """Also where deep levels are reused, and with a ControlNet's additions."""
    config = replace(UNET, vector_width=vector, only_cross=(only_cross, False))
    unet = UNet(config)
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> mx.array:
        return mx.array(rng.standard_normal(shape, np.float32))

    def called(x, t, more):
        deep = Deep(branch=1)
        out = unet(x, t, *texts, residuals=more, deep=deep)
        deep.reuse = kept
        return unet(x * 2, t, *texts, deep=deep) if kept else out

    x, t, texts = (
        normal(2, 6, 8, 4),
        mx.array([10.0, 900.0]),
        [normal(6, 7, config.context_width)],
    )
    if vector is not None:
        texts.append(normal(6, vector))
    skips = [(6, 8, 64), (6, 8, 64), (3, 4, 64), (3, 4, 128), (3, 4, 128)]
    for more in ((), [normal(6, *shape) for shape in skips]):
        expected = called(*(mx.concatenate([a] * 3) for a in (x, t)), more)
        found = called(x, t, more)
        assert found.shape == (6, 6, 8, 4)
        assert mx.allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert not mx.allclose(found[:2], found[2:4], rtol=1e-2)
