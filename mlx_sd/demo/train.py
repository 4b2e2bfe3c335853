"""Train the bundled model from nothing: python -m mlx_sd.demo.train --help

Needs torch, diffusers and transformers, and one large GPU for about 20 minutes. Scenes
are drawn on all cores while the autoencoder trains; then the text encoder and the UNet
train together on the latents. Seeds are fixed; the schedules run by the clock, so the
number of steps depends on the machine and is recorded in training.json.
"""

import argparse
import itertools
import json
import shutil
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models import upsampling
from PIL import Image
from transformers import CLIPTokenizer

from . import architecture, train_vae
from .captions import describe
from .corpus import Corpus, as_input, tokenize
from .painter import render
from .report import contact_sheet, summary
from .scenes import stream
from .score import score
from .train_denoiser import Denoiser, Trainer, sample

SEED = 20


def main() -> None:
    options = _options()
    _set_up_torch()
    out = options.out
    architecture.write_tokenizer(out / "tokenizer", options.merges)
    corpus = Corpus(options.scenes, out / "tokenizer", options.workers, SEED)
    started = time.monotonic()
    corpus.start(options.device)
    generator = torch.Generator(options.device).manual_seed(SEED)
    vae, facts = _autoencoder(options, corpus, generator)
    model = Denoiser(architecture.text_encoder(), architecture.unet())
    trainer = Trainer(model, options.batch, options.device, options.compile)
    print(f"ready to train after {time.monotonic() - started:.0f} s", flush=True)
    corpus.wait(corpus.total)
    latents, facts["vae_psnr_db"] = _encoded(vae, corpus)
    facts["scenes"] = corpus.total
    print(f"vae PSNR {facts['vae_psnr_db']:.2f} dB, {corpus.total} scenes", flush=True)
    held = _Held(options, vae, corpus)
    earlier = facts["seconds"]

    def checkpoint(step: int) -> None:
        facts["unet_steps"] = step
        facts["seconds"] = earlier + round(time.monotonic() - started)
        _save(out, trainer.average.module, vae, facts)
        held.evaluate(trainer.average.module, 64, 7.0, True)

    steps = trainer.train(
        latents, corpus.tokens, options.unet_seconds, generator, checkpoint
    )
    checkpoint(steps)
    for guidance, ancestral in itertools.product((7.0, 5.0, 3.0), (True, False)):
        held.evaluate(trainer.average.module, options.prompts, guidance, ancestral)


def _set_up_torch() -> None:
    torch.manual_seed(SEED)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.suppress_errors = True  # what cannot compile runs as it is
    upsampling.is_torch_version = lambda *_: False  # would split the compiled graph


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mlx_sd.demo.train")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument(
        "--merges",
        type=Path,
        required=True,
        help="bpe_simple_vocab_16e6.txt.gz of CLIP",
    )
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    parser.add_argument("--vae", type=Path, help="use this folder's autoencoder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scenes", type=int, default=262_144)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--vae-seconds", type=float, default=330)
    parser.add_argument("--unet-seconds", type=float, default=840)
    parser.add_argument("--vae-batch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True
    )
    return parser.parse_args()


@torch.no_grad()
def _encoded(vae, corpus: Corpus) -> tuple[torch.Tensor, float]:
    """Latents (N, 4, 16, 16) of unit scale, and the autoencoder's PSNR."""
    latents = torch.empty(
        (corpus.total, 4, architecture.LATENT, architecture.LATENT),
        dtype=torch.float16,
        device=corpus.pictures.device,
    )
    with torch.autocast(latents.device.type, torch.bfloat16):
        for part in torch.arange(corpus.total, device=latents.device).split(512):
            mean = vae.encode(as_input(corpus.pictures[part])).latent_dist.mode()
            latents[part] = (mean * architecture.SCALING).half()
    print(f"latents mean {latents.float().mean():.4f}, std {latents.float().std():.4f}")
    held = itertools.islice(stream(SEED - 1, held=True), min(512, corpus.total))
    pictures = np.stack([render(scene) for scene, _ in held])
    on_device = as_input(torch.from_numpy(pictures).to(latents.device))
    return latents, train_vae.psnr(vae, on_device)


def _autoencoder(
    options: argparse.Namespace, corpus: Corpus, generator: torch.Generator
) -> tuple[AutoencoderKL, dict[str, float]]:
    """A trained autoencoder and what it took."""
    vae = architecture.vae()
    if options.vae:
        trained = AutoencoderKL.from_pretrained(options.vae / "vae")
        vae.load_state_dict(trained.state_dict())  # `trained` remembers its path
        earlier = json.loads((options.vae / "training.json").read_text())
        kept = ("vae_steps", "vae_seconds")
        facts = {name: earlier[name] for name in kept}
        facts["seconds"] = facts["vae_seconds"]
        return vae.to(options.device), facts
    started = time.monotonic()
    corpus.wait(4 * options.vae_batch)
    vae, steps = train_vae.train(
        vae,
        corpus,
        options.vae_seconds,
        options.vae_batch,
        generator,
        options.compile,
    )
    train_vae.calibrate(vae, as_input(corpus.pictures[:8192]))
    seconds = round(time.monotonic() - started)
    return vae, {"vae_steps": steps, "vae_seconds": seconds, "seconds": 0}


class _Held:
    """Held-out prompts, sampled, scored and laid out on a contact sheet."""

    def __init__(self, options: argparse.Namespace, vae, corpus: Corpus):
        self.vae, self.pool, self.device = vae, corpus.pool, options.device
        self.sheets = options.sheets or options.out
        self.sheets.mkdir(parents=True, exist_ok=True)
        held = itertools.islice(stream(SEED - 2, held=True), options.prompts)
        self.asked = [(scene, describe(scene, rng)) for scene, rng in held]
        tokenizer = CLIPTokenizer.from_pretrained(options.out / "tokenizer")
        texts = [caption.text for _, caption in self.asked]
        self.tokens = tokenize(tokenizer, texts).to(options.device)

    @torch.no_grad()
    def evaluate(
        self, model: Denoiser, count: int, guidance: float, ancestral: bool
    ) -> None:
        asked, tokens = self.asked[:count], self.tokens[:count]
        with torch.autocast(tokens.device.type, torch.bfloat16):
            latents = sample(model, tokens, 20, guidance, ancestral, SEED).float()
            pictures = self.vae.decode(latents / architecture.SCALING).sample
        pixels = ((pictures.float() + 1) * 127.5).round().clamp(0, 255).byte()
        images = list(pixels.permute(0, 2, 3, 1).cpu().numpy())
        jobs = [(image, *pair) for image, pair in zip(images, asked, strict=True)]
        results = self.pool.starmap(score, jobs)
        name = f"{'euler_a' if ancestral else 'euler'}-cfg{guidance:g}"
        print(f"{name}: {summary(results)}", flush=True)
        sheet = contact_sheet([Image.fromarray(i) for i in images[:64]], asked, results)
        sheet.save(self.sheets / f"{name}.png")


def _save(out: Path, average: Denoiser, vae, facts: dict) -> None:
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(out / "tokenizer", fresh / "tokenizer")
    copies = [deepcopy(m).cpu() for m in (average.text, average.unet, vae)]
    architecture.save(fresh, *copies)
    (fresh / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    shutil.copytree(fresh, out, dirs_exist_ok=True)
    shutil.rmtree(fresh)


if __name__ == "__main__":
    main()
