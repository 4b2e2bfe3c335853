"""Checkpoints made from nothing but tensor names: SD 1.x's here, others' by names.py.

Real weights cannot live in a repository, so tests use made ones: every tensor is a
function of its LDM name and its shape alone, the same in every process and for every
reference implementation. Each value is one of 256 levels that float16 and bfloat16
both hold exactly, so F16, BF16 and F32 files of one checkpoint carry equal numbers.
The levels are scaled so that activations stay near unit size: the UNet predicts noise
of standard deviation about 1, the VAE decodes to pictures of about 0.5.
"""

import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Shapes = dict[str, tuple[int, ...]]

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
VAE = "first_stage_model."

# Standard deviation of each kind of tensor, first fit wins. A number alone is that
# deviation; "fan" divides it by the square root of the weight's inputs.
_SCALES = (
    (r"token_embedding\.weight", 0.02, ""),
    (r"(position_embedding\.weight|positional_embedding)", 0.01, ""),
    (r"bias", 0.02, ""),
    # Last layers: SiLU of a unit normal has a root mean square of 0.6.
    (r"diffusion_model\.out\.2\.weight", 1.7, "fan"),
    (r"decoder\.conv_out\.weight", 0.85, "fan"),
    (r"encoder\.conv_out\.weight", 1.7, "fan"),
    # The prompt's part in the prediction: at 1, CFG 7 would multiply the noise.
    (r"attn2\.to_out\.0\.weight", 0.25, "fan"),
    # Queries: scores of deviation 2, so attention is neither flat nor one-hot.
    (r"(to_q|q_proj|attn_1\.q)\.weight", 2.0, "fan"),
    (r"in_proj_weight", 1.4, "fan"),  # with the keys
    # Residual branches of the text encoder keep to the size of its embeddings.
    (r"(out_proj|mlp\.fc2|mlp\.c_proj)\.weight", 0.1, "fan"),
    # A 3x3 convolution after SiLU keeps unit size.
    (r"((in|out)_layers\.\d|conv\d)\.weight", 1.7, "fan"),
    (r"(weight|text_projection)", 1.0, "fan"),
)
_NORM_SPREAD = 0.1  # norm weights are 1 +- this, norm biases 0 +- this
_LEVELS = (np.arange(256) - 127.5) / math.sqrt((256**2 - 1) / 12)  # unit deviation


def tensor(name: str, shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """The tensor of that LDM name: one random byte per value picks its level.

    float32 and float16 hold the same numbers.
    """
    size = math.prod(shape)
    words = np.random.PCG64(zlib.crc32(name.encode())).random_raw(-(-size // 8))
    picks = words.astype("<u8", copy=False).view(np.uint8)[:size]
    levels = _levels(name, shape).astype(dtype)
    out = np.empty(size, dtype)
    for start in range(0, size, 1 << 16):  # np.take makes 8-byte indices: keep few
        part = slice(start, start + (1 << 16))
        np.take(levels, picks[part], out=out[part], mode="clip")
    return out.reshape(shape)


def _levels(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """(256,) float32, exact in float16 and bfloat16."""
    if _is_norm(name):
        levels = _NORM_SPREAD * _LEVELS + name.endswith("weight")
    else:
        std, rule = next((s, r) for pat, s, r in _SCALES if re.search(pat + "$", name))
        levels = _LEVELS * (std / math.sqrt(math.prod(shape[1:])) if rule else std)
    bits = levels.astype(np.float32).view(np.uint32)
    coarse = ((bits + 0x8000) & 0xFFFF0000).view(np.float32)  # rounds to bfloat16
    return coarse.astype(np.float16).astype(np.float32)


def _is_norm(name: str) -> bool:
    return bool(re.search(r"norm|ln_|(in_layers|out_layers|_model\.out)\.0\.", name))


def weights(shapes: Shapes, dtype=np.float32) -> dict[str, np.ndarray]:
    """Every tensor of `shapes`."""
    return {name: tensor(name, shape, dtype) for name, shape in shapes.items()}


def sd1_shapes() -> Shapes:
    """All 1130 tensors of an SD 1.5 LDM checkpoint: UNet 686, VAE 248, text 196."""
    return {
        **_named(UNET, _unet(base=320, mult=(1, 2, 4, 4), blocks=2, context=768)),
        **_named(VAE, _vae(base=128, mult=(1, 2, 4, 4), blocks=2)),
        **_named(TEXT, _text(width=768, layers=12, vocab=49408)),
    }


def small_shapes() -> Shapes:
    """The same architecture with fewer levels and narrower ones.

    UNet widths 64, 128, 192 with 8 heads; VAE 32 to 128 with one block per level;
    text 128 wide with 2 heads, 2 layers and 1000 tokens.
    """
    return {
        **_named(UNET, _unet(base=64, mult=(1, 2, 3), blocks=2, context=128)),
        **_named(VAE, _vae(base=32, mult=(1, 2, 3, 4), blocks=1)),
        **_named(TEXT, _text(width=128, layers=2, vocab=1000)),
    }


def with_inputs(shapes: Shapes, channels: int) -> Shapes:
    """The same for a UNet that is shown more: 9 to inpaint, 8 to edit."""
    name = UNET + "input_blocks.0.0.weight"
    return {**shapes, name: (shapes[name][0], channels, 3, 3)}


Entry = tuple[str, tuple[int, ...]]


def _named(prefix: str, entries: Iterator[Entry]) -> Shapes:
    return {prefix + name: shape for name, shape in entries}


def _affine(name: str, *shape: int) -> Iterator[Entry]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _conv(name: str, inp: int, out: int, size: int = 3) -> Iterator[Entry]:
    yield from _affine(name, out, inp, size, size)


def _unet(base: int, mult: tuple[int, ...], blocks: int, context: int):
    """LDM's UNetModel: transformers on all levels but the deepest."""
    time, deepest = 4 * base, len(mult) - 1
    yield from _affine("time_embed.0", time, base)
    yield from _affine("time_embed.2", time, time)
    yield from _conv("input_blocks.0.0", 4, base)
    skips, width, index = [base], base, 1
    for level, factor in enumerate(mult):
        for _ in range(blocks):
            name = f"input_blocks.{index}"
            yield from _resblock(f"{name}.0", width, base * factor, time)
            width = base * factor
            if level < deepest:
                yield from _transformer(f"{name}.1", width, context)
            skips.append(width)
            index += 1
        if level < deepest:
            yield from _conv(f"input_blocks.{index}.0.op", width, width)
            skips.append(width)
            index += 1
    yield from _resblock("middle_block.0", width, width, time)
    yield from _transformer("middle_block.1", width, context)
    yield from _resblock("middle_block.2", width, width, time)
    index = 0
    for level, factor in reversed(list(enumerate(mult))):
        for block in range(blocks + 1):
            name = f"output_blocks.{index}"
            inp, width = width + skips.pop(), base * factor
            yield from _resblock(f"{name}.0", inp, width, time)
            if level < deepest:
                yield from _transformer(f"{name}.1", width, context)
            if level and block == blocks:
                part = 2 if level < deepest else 1
                yield from _conv(f"{name}.{part}.conv", width, width)
            index += 1
    yield from _affine("out.0", base)
    yield from _conv("out.2", base, 4)


def _resblock(name: str, inp: int, out: int, time: int) -> Iterator[Entry]:
    yield from _affine(f"{name}.in_layers.0", inp)
    yield from _conv(f"{name}.in_layers.2", inp, out)
    yield from _affine(f"{name}.emb_layers.1", out, time)
    yield from _affine(f"{name}.out_layers.0", out)
    yield from _conv(f"{name}.out_layers.3", out, out)
    if inp != out:
        yield from _conv(f"{name}.skip_connection", inp, out, size=1)


def _transformer(name: str, width: int, context: int) -> Iterator[Entry]:
    block = f"{name}.transformer_blocks.0"
    yield from _affine(f"{name}.norm", width)
    yield from _conv(f"{name}.proj_in", width, width, size=1)
    for attn, source in (("attn1", width), ("attn2", context)):
        yield f"{block}.{attn}.to_q.weight", (width, width)
        yield f"{block}.{attn}.to_k.weight", (width, source)
        yield f"{block}.{attn}.to_v.weight", (width, source)
        yield from _affine(f"{block}.{attn}.to_out.0", width, width)
    yield from _affine(f"{block}.ff.net.0.proj", 8 * width, width)
    yield from _affine(f"{block}.ff.net.2", width, 4 * width)
    for norm in ("norm1", "norm2", "norm3"):
        yield from _affine(f"{block}.{norm}", width)
    yield from _conv(f"{name}.proj_out", width, width, size=1)


def _vae(base: int, mult: tuple[int, ...], blocks: int) -> Iterator[Entry]:
    """LDM's AutoencoderKL with four latent channels."""
    width = base
    yield from _conv("encoder.conv_in", 3, base)
    for level, factor in enumerate(mult):
        for block in range(blocks):
            name = f"encoder.down.{level}.block.{block}"
            yield from _vae_block(name, width, base * factor)
            width = base * factor
        if level < len(mult) - 1:
            yield from _conv(f"encoder.down.{level}.downsample.conv", width, width)
    yield from _vae_middle("encoder.mid", width)
    yield from _affine("encoder.norm_out", width)
    yield from _conv("encoder.conv_out", width, 8)
    yield from _conv("quant_conv", 8, 8, size=1)
    yield from _conv("post_quant_conv", 4, 4, size=1)
    yield from _conv("decoder.conv_in", 4, width)
    yield from _vae_middle("decoder.mid", width)
    for level, factor in reversed(list(enumerate(mult))):
        for block in range(blocks + 1):
            name = f"decoder.up.{level}.block.{block}"
            yield from _vae_block(name, width, base * factor)
            width = base * factor
        if level:
            yield from _conv(f"decoder.up.{level}.upsample.conv", width, width)
    yield from _affine("decoder.norm_out", width)
    yield from _conv("decoder.conv_out", width, 3)


def _vae_block(name: str, inp: int, out: int) -> Iterator[Entry]:
    yield from _affine(f"{name}.norm1", inp)
    yield from _conv(f"{name}.conv1", inp, out)
    yield from _affine(f"{name}.norm2", out)
    yield from _conv(f"{name}.conv2", out, out)
    if inp != out:
        yield from _conv(f"{name}.nin_shortcut", inp, out, size=1)


def _vae_middle(name: str, width: int) -> Iterator[Entry]:
    yield from _vae_block(f"{name}.block_1", width, width)
    yield from _affine(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{name}.attn_1.{part}", width, width, size=1)
    yield from _vae_block(f"{name}.block_2", width, width)


def _text(width: int, layers: int, vocab: int) -> Iterator[Entry]:
    """CLIP's text transformer, Hugging Face names."""
    yield "embeddings.token_embedding.weight", (vocab, width)
    yield "embeddings.position_embedding.weight", (77, width)
    for layer in range(layers):
        name = f"encoder.layers.{layer}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _affine(f"{name}.self_attn.{part}", width, width)
        yield from _affine(f"{name}.layer_norm1", width)
        yield from _affine(f"{name}.mlp.fc1", 4 * width, width)
        yield from _affine(f"{name}.mlp.fc2", width, 4 * width)
        yield from _affine(f"{name}.layer_norm2", width)
    yield from _affine("final_layer_norm", width)


def extra_buffers() -> dict[str, np.ndarray]:
    """What training leaves in real LDM checkpoints and no model reads.

    Of the averaged copy `model_ema.*` only its counters and one tensor.
    """
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    before = np.append(1.0, kept[:-1])
    variance = betas * (1 - before) / (1 - kept)
    buffers = {
        "betas": betas,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(kept),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - kept),
        "log_one_minus_alphas_cumprod": np.log(1 - kept),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / kept),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / kept - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - kept),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - kept),
        "model_ema.decay": np.array(0.9999),
        "model_ema.diffusion_modelout2bias": np.zeros(4),
    }
    return {
        **{name: value.astype(np.float32) for name, value in buffers.items()},
        "model_ema.num_updates": np.array(840000, np.int32),
        TEXT + "embeddings.position_ids": np.arange(77)[None],
    }


_DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


def save(path: Path, shapes: Shapes, dtype: str = "F16", buffers: dict | None = None):
    """Write a safetensors file, tensor by tensor: no second copy in memory.

    Args:
        dtype: "F32", "F16" or "BF16"; the numbers are the same in all three.
        buffers: arrays to add as they are, such as extra_buffers().
    """
    buffers = buffers or {}
    kind = _DTYPES[dtype]
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + kind.itemsize * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    for name, array in buffers.items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": {"f4": "F32", "i4": "I32", "i8": "I64"}[array.dtype.str[1:]],
            "shape": array.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(_stored(name, shape, dtype).data)
        for array in buffers.values():
            file.write(array.tobytes())


def _stored(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "BF16":  # the upper half of a float32, exact here
        return (tensor(name, shape).view(np.uint32) >> 16).astype(_DTYPES[dtype])
    return tensor(name, shape, _DTYPES[dtype])
