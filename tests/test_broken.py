"""Models that cannot run: one line that names the file, what is wrong, what next."""

import time

import pytest
import seeded
from checkpoints import hollow
from refusal import failure

from mlx_sd.opening import open_model, open_source

UNET, VAE, TEXT = seeded.UNET, seeded.VAE, seeded.TEXT
CONV = UNET + "input_blocks.2.0.in_layers.2.weight"
TOKENS = TEXT + "embeddings.token_embedding.weight"


def without(*prefixes):
    return lambda s: {n: v for n, v in s.items() if not n.startswith(prefixes)}


def instead(name, shape):
    return lambda s: {**s, name: shape}


def lora(_):
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    return {f"{name}.lora_down.weight": (8, 320, 1, 1), f"{name}.alpha": ()}


def linear(shapes):
    """SD 2.x has linear projections around its transformers."""
    return {n: s[:2] if ".proj_" in n and UNET in n else s for n, s in shapes.items()}


BROKEN = {
    "missing tensor": (
        without(CONV),
        "1 of the unet's 496 weights are missing, first "
        + UNET
        + "input_blocks.2.0.in_layers.2",
    ),
    "missing outer tensor": (without(UNET + "out.2"), "conv_out.weight is missing"),
    "missing layer": (
        without(TEXT + "encoder.layers.0."),
        "layers.0.fc1.weight is missing",
    ),
    "wrong shape": (
        instead(CONV, (64, 32, 3, 3)),
        f"{CONV} has shape [64, 32, 3, 3], which does not fit",
    ),
    "wrong axes": (instead(TOKENS, (1000,)), "clip_l has the wrong number of axes"),
    "wrong outer axes": (
        instead(UNET + "input_blocks.0.0.weight", (64,)),
        "unet has the wrong number of axes",
    ),
    "no place": (
        instead(VAE + "encoder.down.3.downsample.conv.bias", (128,)),
        "encoder.down.3.downsample.conv.bias has no place in this vae",
    ),
    "one weight twice": (
        instead("vae.decoder.mid.attn_1.q.bias", (128,)),
        "decoder.mid.attn_1.q.bias' are both the vae's decoder.mid.attn.q.bias",
    ),
    "no UNet": (without(UNET), "holds no UNet"),
    "UNet alone": (without(VAE, TEXT), "holds no vae; give one with --vae"),
    "no text encoder": (without(TEXT), "holds no clip_l"),
    "LoRA": (lora, "holds no UNet"),
    "no known task": (
        instead(UNET + "input_blocks.0.0.weight", (64, 7, 3, 3)),
        "SD 1.x (7 channels) models do not run yet; SD 1.x, SD 2.x, ",
    ),
    "SD 2's UNet alone": (linear, "holds no clip_h; give one with --clip_l"),
    "SDXL's UNet alone": (
        lambda s: {
            **s,
            UNET + "label_emb.0.0.weight": (256, 2816),
            UNET + "label_emb.0.0.bias": (256,),
            UNET + "label_emb.0.2.weight": (256, 256),
            UNET + "label_emb.0.2.bias": (256,),
        },
        "holds no clip_g; give one with --clip_g",
    ),
    "another VAE": (
        lambda s: {
            **s,
            VAE + "decoder.conv_in.weight": (128, 16, 3, 3),
            VAE + "encoder.conv_out.weight": (32, 128, 3, 3),
            VAE + "encoder.conv_out.bias": (32,),
            VAE + "quant_conv.weight": (32, 32, 1, 1),
            VAE + "quant_conv.bias": (32,),
            VAE + "post_quant_conv.weight": (16, 16, 1, 1),
            VAE + "post_quant_conv.bias": (16,),
        },
        "a VAE with 16 latent channels does not fit",
    ),
    "another text encoder": (
        lambda s: {
            n: tuple({128: 192, 512: 768}.get(x, x) for x in v) if TEXT in n else v
            for n, v in s.items()
        },
        "a text encoder 192 wide does not fit the UNet, which wants 128",
    ),
}


@pytest.mark.parametrize("change, reason", BROKEN.values(), ids=BROKEN.keys())
def test_a_model_that_cannot_run_says_why(change, reason, tmp_path):
    path = hollow(tmp_path / "x.safetensors", change(seeded.small_shapes()))
    message = failure(path, open_model)
    assert reason in message
    if "are both" not in message:
        assert message.endswith(f"see what it holds with: mlx-sd inspect {path}")


def test_damage_is_found_before_any_weight_is_read(tmp_path):
    shapes = seeded.sd1_shapes()
    del shapes[CONV]
    path = hollow(tmp_path / "x.safetensors", shapes, "F32")
    start = time.process_time()
    assert "1 of the unet's 686 weights are missing" in failure(path, open_model)
    assert time.process_time() - start < 1
    assert open_source(path).contents.parts["unet"]
