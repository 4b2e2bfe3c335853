"""CLIP, UNet and VAE against transformers and diffusers, with the same weights."""

import gc
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import seeded

from mlx_sd.load import open_source

GOLDEN = Path(__file__).parent / "golden"
SIZES = ["small", pytest.param("full", marks=pytest.mark.full)]

# Relative errors. float16 rounds at 5e-4 and there are dozens of layers.
BOUNDS = {mx.float32: 1e-4, mx.float16: 1e-2}


def error(ours: mx.array, reference: np.ndarray) -> float:
    """‖ours - reference‖ / ‖reference‖, in float64"""
    ours = np.array(ours.astype(mx.float32)).astype(np.float64)
    assert ours.shape == reference.shape
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def nhwc(x: np.ndarray) -> mx.array:
    return mx.array(x).transpose(0, 2, 3, 1)


def nchw(x: mx.array) -> mx.array:
    return x.transpose(0, 3, 1, 2)


@pytest.fixture(scope="module", params=SIZES)
def size(request):
    return request.param


@pytest.fixture(scope="module")
def source(size, tmp_path_factory, full_checkpoint):
    if size == "full":
        return open_source(full_checkpoint())
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    seeded.save(path, seeded.small_shapes())
    return open_source(path)


@pytest.fixture(scope="module", params=[mx.float32, mx.float16], ids=["f32", "f16"])
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def build(source, dtype):
    yield lambda part: source.build(part, dtype)
    gc.collect()
    mx.clear_cache()


def test_clip_matches_transformers(build, dtype, size):
    golden = np.load(GOLDEN / f"clip_{size}.npz")
    clip, every = build("clip_l"), 8 if size == "full" else 1
    ids = mx.array(golden["ids"])
    assert error(clip(ids).hidden[..., ::every], golden["last"]) < BOUNDS[dtype]
    hidden = clip(ids, clip_skip=2, normed=False).hidden[..., ::every]
    assert error(hidden, golden["penultimate"]) < BOUNDS[dtype]


def test_unet_matches_diffusers(build, dtype, size):
    golden = np.load(GOLDEN / f"unet_{size}.npz")
    unet = build("unet")
    cases = [name.removeprefix("time_") for name in golden if name.startswith("time_")]
    assert cases
    if size == "full" and dtype == mx.float16:
        cases = cases[:1]  # scalar code on a CPU: 10 s each
    for case in cases:
        latent = golden[f"latent_{case}"]
        out = unet(
            nhwc(latent).astype(dtype),
            mx.full((len(latent),), float(golden[f"time_{case}"])),
            mx.array(golden[f"context_{case}"]).astype(dtype),
        )
        assert out.dtype == dtype
        assert error(nchw(out), golden[f"noise_{case}"]) < BOUNDS[dtype], case


def test_vae_decoder_matches_diffusers(build, dtype, size):
    golden = np.load(GOLDEN / f"vae_{size}.npz")
    out = build("vae").decode(nhwc(golden["latent"]).astype(dtype))
    assert error(nchw(out), golden["picture"]) < BOUNDS[dtype]


def test_vae_encoder_matches_diffusers(build, dtype, size):
    golden = np.load(GOLDEN / f"vae_{size}.npz")
    moments = build("vae").encode(nhwc(golden["image"]).astype(dtype))
    assert error(nchw(moments.mean), golden["mean"]) < BOUNDS[dtype]
    assert error(nchw(moments.logvar), golden["logvar"]) < BOUNDS[dtype]
