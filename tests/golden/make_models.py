"""Golden inputs and outputs of each network, at full SD 1.5 size and at a small one.

Run: python tests/golden/make_models.py (torch, diffusers, transformers; 6 GB, 1 min).
Arrays are as torch has them: NCHW latents and pictures, (B, L, D) text states.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.schedulers import PNDMScheduler
from safetensors.numpy import load_file, save_file
from transformers import CLIPTokenizer

sys.path.insert(0, str(Path(__file__).parent))
import reference
from make_tokens import vocabulary
from provenance import FOLDER, record

PACKAGES = ("torch", "diffusers", "transformers", "numpy")
PERIODS = ((320, 10_000), (64, 10_000), (5, 10_000), (321, 10_000), (256, 1_000))
NOTES = """
- `clip_*.npz`: `ids` (2, 77); `last` is the state after the final norm, `penultimate`
  the one before the last layer; of the full size every 8th feature is kept.
- `unet_*.npz`: `noise_<n>` is predicted for `latent_<n>`, `time_<n>`, `context_<n>`
  (context stored as float16, exact: it was rounded before use).
- `vae_*.npz`: `picture` = decoder(`latent`), without the 0.18215 scale;
  `mean`, `logvar` = encoder(`image`), logvar not clamped.
- `timesteps.npz`: `times` and `d<dim>_p<max_period>`, cosines first, no shift.
"""


def write(name: str, **arrays: np.ndarray):
    path = FOLDER / name
    np.savez_compressed(path, **arrays)
    print(f"{name}: {path.stat().st_size / 1000:.0f} kB")


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def make_text(size: str):
    """Row 0 is a short prompt padded with EOS, row 1 fills its 75 tokens."""
    model = reference.text_encoder(size)
    vocab = reference.TEXTS[size]["vocab_size"]
    ids = np.random.default_rng(1).integers(0, vocab - 2, (2, 77))
    ids[:, 0] = vocab - 2
    ids[0, 13:] = vocab - 1
    ids[1, 76] = vocab - 1
    last, penultimate = reference.run_text(model, ids)
    kept = slice(None, None, 8 if size == "full" else 1)
    write(
        f"clip_{size}.npz",
        ids=ids,
        last=last[..., kept],
        penultimate=penultimate[..., kept],
    )


def make_unet(size: str):
    """Fractional and last timesteps, batch 2 and an oblong latent at the small size."""
    model = reference.unet(size)
    width = reference.UNETS[size]["cross_attention_dim"]
    rng = np.random.default_rng(2)
    if size == "full":
        cases = [((1, 4, 32, 32), 481.3, 77), ((1, 4, 32, 32), 999.0, 77)]
    else:
        cases = [
            ((2, 4, 16, 16), 481.3, 77),
            ((2, 4, 16, 16), 999.0, 77),
            ((1, 4, 24, 40), 0.25, 154),  # two chunks of prompt
        ]
    arrays: dict[str, np.ndarray] = {}
    for n, (shape, time, tokens) in enumerate(cases):
        latent = normal(rng, *shape)
        context = normal(rng, shape[0], tokens, width).astype(np.float16)
        arrays[f"latent_{n}"], arrays[f"context_{n}"] = latent, context
        arrays[f"time_{n}"] = np.array(time, np.float32)
        states = context.astype(np.float32)
        arrays[f"noise_{n}"] = reference.run_unet(model, latent, time, states)
        print(f"  {size} UNet t={time}: deviation {arrays[f'noise_{n}'].std():.3f}")
    write(f"unet_{size}.npz", **arrays)


def make_vae(size: str):
    model = reference.vae(size)
    rng = np.random.default_rng(3)
    side = 16 if size == "full" else 8
    latent = 5 * normal(rng, 1, 4, side, side)
    image = np.tanh(normal(rng, 1, 3, 64, 48 if size == "small" else 64))
    picture = model.decode(torch.from_numpy(latent)).sample.numpy()
    moments = model.quant_conv(model.encoder(torch.from_numpy(image)))
    mean, logvar = moments.chunk(2, dim=1)
    print(f"  {size} VAE: picture deviation {picture.std():.3f}")
    write(
        f"vae_{size}.npz",
        latent=latent,
        picture=picture,
        image=image,
        mean=mean.numpy(),
        logvar=logvar.numpy(),
    )


def make_timesteps():
    times = np.array([0.0, 0.25, 1.0, 17.5, 481.3, 998.999, 999.0], np.float32)
    embedded = {
        f"d{dim}_p{period}": get_timestep_embedding(
            torch.from_numpy(times),
            dim,
            flip_sin_to_cos=True,
            downscale_freq_shift=0,
            max_period=period,
        ).numpy()
        for dim, period in PERIODS
    }
    write("timesteps.npz", times=times, **embedded)


def write_folder(path: Path, size: str = "small", published: bool = True):
    """Save a diffusers folder: unet, vae, text_encoder, tokenizer, scheduler.

    The small tokenizer has CLIP's first 998 tokens, then BOS 998 and EOS 999.

    Args:
        published: as folders on the Hub are, written by transformers 4: text encoder
            names begin with `text_model.`, the tokenizer is vocab.json and merges.txt.
            Else as transformers 5 writes them: no such prefix, tokenizer.json alone.
    """
    vocab, merges = small_vocabulary() if size == "small" else vocabulary()
    pipeline = StableDiffusionPipeline(
        vae=reference.vae(size),
        text_encoder=reference.text_encoder(size),
        tokenizer=CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77),
        unet=reference.unet(size),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(path)
    if published:
        _as_published(path, vocab, merges)


def small_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's 512 byte symbols, first 486 merges, BOS and EOS: 1000 tokens."""
    vocab, merges = vocabulary()
    tokens = [*list(vocab)[:998], *list(vocab)[-2:]]
    return {token: index for index, token in enumerate(tokens)}, merges[:486]


def _as_published(path: Path, vocab: dict[str, int], merges: list[tuple[str, str]]):
    weights = path / "text_encoder/model.safetensors"
    state = load_file(weights)
    if not any(name.startswith("text_model.") for name in state):
        state = {f"text_model.{name}": array for name, array in state.items()}
    save_file(state, weights, metadata={"format": "pt"})
    tokenizer = path / "tokenizer"
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (tokenizer / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")


def main():
    for size in ("small", "full"):
        make_text(size)
        make_unet(size)
        make_vae(size)
    make_timesteps()
    record("make_models.py", PACKAGES, NOTES)


if __name__ == "__main__":
    main()
