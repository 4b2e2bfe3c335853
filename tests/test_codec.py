"""Pictures ↔ latents, against diffusers, and what float16 cannot hold."""

import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import parity
import pytest
import small_families
from safetensors.numpy import save_file

from mlx_sd import ConfigError, Request, SDError, load
from mlx_sd.codec import Codec
from mlx_sd.cuda.unet import FastUNet
from mlx_sd.cuda.vae import FastDecoder
from mlx_sd.opening import open_source
from mlx_sd.quantize import parse_rules

GOLDEN = np.load(Path(__file__).parent / "golden/vae_small.npz")
VAE = "first_stage_model."
SCALE = 0.18215  # Rombach et al.'s, of latents that the UNet works on

# What writes into the stream of a VAE that its blocks add to, a bias alone where the
# weight reads the stream too. All norms are of the stream, so its size cancels out.
_STREAM = re.compile(
    r".*(coder\.conv_in|conv2|attn_1\.proj_out)\.(weight|bias)"
    r"|.*(nin_shortcut|sample\.conv)\.bias"
)


def codec(path: Path, dtype: mx.Dtype = mx.float32) -> Codec:
    return Codec(open_source(path), "vae", dtype, parse_rules(None, None))


def enlarged(arrays, times: float):
    """The same VAE but for the size of what flows through it."""
    return {
        name: (array * times).astype("f4")
        if name.startswith(VAE) and _STREAM.fullmatch(name)
        else array
        for name, array in arrays.items()
    }


@pytest.fixture(scope="module")
def large(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("large") / "large.safetensors"
    save_file(enlarged(arrays, 2.0**14), path)
    return path


def test_latents_are_decoded_from_the_models_scale(small):
    latent = parity.nhwc(SCALE * GOLDEN["latent"])
    picture = codec(small).decode(latent)
    assert parity.error(parity.nchw(picture), GOLDEN["picture"]) < 1e-4


def test_what_memory_does_not_suffice_for_is_decoded_in_tiles(small, monkeypatch):
    latent = SCALE * parity.nhwc(GOLDEN["latent"])
    expected, short = codec(small).decode(latent), codec(small)
    asked = []

    def decode(self, z, may_record):
        asked.append(z.shape)
        raise RuntimeError("[malloc] Unable to allocate 80 GB.")

    monkeypatch.setattr(FastDecoder, "__call__", decode)
    for _ in range(2):  # the second time it knows
        assert parity.error(short.decode(latent), expected) < 1e-5
    assert len(asked) == 1


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_a_decoder_may_be_recorded_once_its_unet_is(recorded, keep, monkeypatch):
    asked, decode = [], FastDecoder.__call__

    def watch(self, z, may_record):
        asked.append(may_record)
        return decode(self, z, may_record)

    monkeypatch.setattr(FastDecoder, "__call__", watch)
    monkeypatch.setattr(FastUNet, "recorded", recorded)
    pipeline = load(dtype="f32")
    pipeline.decode(mx.zeros((1, 8, 8, 4)))  # as a preview does before
    request = Request("a house", width=64, height=64, steps=1)
    list(pipeline.stream(request, keep))
    assert asked == [False, recorded]


def test_other_failures_are_not_taken_for_want_of_memory(small, monkeypatch):
    def decode(self, z, may_record):
        raise RuntimeError("a kernel does not compile")

    monkeypatch.setattr(FastDecoder, "__call__", decode)
    with pytest.raises(RuntimeError, match="does not compile"):
        codec(small).decode(SCALE * parity.nhwc(GOLDEN["latent"]))


def test_pictures_are_encoded_to_a_draw_or_the_mean(small):
    image, codec_ = parity.nhwc(GOLDEN["image"]), codec(small)
    noise = np.random.default_rng(0).normal(size=GOLDEN["mean"].shape)
    deviation = np.exp(0.5 * np.clip(GOLDEN["logvar"], -30, 20))
    drawn = GOLDEN["mean"] + deviation * noise
    assert np.abs(drawn - GOLDEN["mean"]).max() > 0.1
    for found, expected in (
        (codec_.encode(image, lambda: parity.nhwc(noise)), SCALE * drawn),
        (codec_.encode(image, None), SCALE * GOLDEN["mean"]),
        (codec_.encode(image, None, scaled=False), GOLDEN["mean"]),
    ):
        assert found.dtype == mx.float32
        assert parity.error(parity.nchw(found), expected) < 1e-4


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_a_decoder_that_exceeds_float16_goes_on_in_float32(large, dtype, caplog):
    pipeline, latent = load(large, dtype=dtype), parity.nhwc(SCALE * GOLDEN["latent"])
    caplog.set_level("INFO", "mlx_sd")
    for _ in range(2):
        picture = pipeline.codec.decode(latent)
        bound = 1e-4 if dtype == "f16" else 0.1
        assert parity.error(parity.nchw(picture), GOLDEN["picture"]) < bound
    said = [r.message for r in caplog.records if "exceeds float16" in r.message]
    assert len(said) == (dtype == "f16")  # once
    assert pipeline.codec.dtype == (mx.float32 if dtype == "f16" else mx.bfloat16)


def test_an_encoder_that_exceeds_float16_goes_on_in_float32(large):
    found = codec(large, mx.float16).encode(parity.nhwc(GOLDEN["image"]), None)
    assert parity.error(parity.nchw(found), SCALE * GOLDEN["mean"]) < 1e-4


def test_one_that_float16_holds_stays_in_it(small):
    small_codec = codec(small, mx.float16)
    picture = small_codec.decode(parity.nhwc(SCALE * GOLDEN["latent"]))
    assert picture.dtype == small_codec.dtype == mx.float16
    assert parity.error(parity.nchw(picture), GOLDEN["picture"]) < 1e-2


@pytest.mark.parametrize("dtype", [mx.float16, mx.float32])
def test_what_is_no_number_is_an_error_that_says_where(tmp_path, arrays, small, dtype):
    name = f"{VAE}decoder.mid.block_1.conv1.weight"
    save_file({**arrays, name: arrays[name] * np.nan}, tmp_path / "broken.safetensors")
    broken = codec(tmp_path / "broken.safetensors", dtype)
    with pytest.raises(SDError, match=r"broken\.safetensors: the VAE's decoder gave"):
        broken.decode(mx.zeros((1, 8, 8, 4)))
    with pytest.raises(SDError, match="the latent to decode holds"):
        codec(small, dtype).decode(mx.full((1, 8, 8, 4), float("nan")))


@pytest.fixture(scope="module")
def alone(tmp_path_factory, arrays):
    """The decoder of the small VAE, a quarter as wide as SD's, in a file of its own."""
    path = tmp_path_factory.mktemp("alone") / "alone.safetensors"
    names = (n for n in arrays if re.match(f"{VAE}(decoder|post_quant_conv)\\.", n))
    save_file({name: arrays[name] for name in names}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "scale"),
    [("SD 2.x", SCALE), ("SDXL", 0.13025), ("SDXL Refiner", 0.13025)],
)
def test_a_slim_decoder_replaces_any_familys_vae(kind, scale, alone, tmp_path):
    shapes = small_families.shapes(kind)
    folder = small_families.write_folder(tmp_path / "model", shapes)
    pipeline = load(folder, vae=alone, dtype="f32")
    picture = pipeline.codec.decode(parity.nhwc(scale * GOLDEN["latent"]))
    assert parity.error(parity.nchw(picture), GOLDEN["picture"]) < 1e-4
    request = Request("a", width=64, height=64, seed=1)
    assert "VAE: alone.safetensors" in pipeline.parameters(pipeline.resolve(request))
    with pytest.raises(ConfigError, match=r"alone\.safetensors: holds no encoder"):
        pipeline.codec.encode(mx.zeros((1, 64, 64, 3)), None)
