"""Golden pictures that start from a picture, of narrow models, by diffusers' pipelines.

Run: python tests/golden/make_img2img_small.py (torch, diffusers, transformers,
stable-diffusion-cpp-python, gguf; 2 min).
"""

import gzip
import json

import make_families
import make_names
import numpy as np
import started
import torch
from diffusers import (
    EDMEulerScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
)
from make_img2img import decoded, euler, paint
from make_pictures import philox
from PIL import Image
from provenance import FOLDER, record
from small_families import HEIGHT, NEGATIVE, PROMPT, SEED, WIDTH
from started import CFG, EDM, SMALL, STEPS, Case

PACKAGES = ("torch", "diffusers", "transformers", "numpy")
NOTES = f"""
`started.json.gz`: as `families.json.gz`, by the cases of `started.py`. `started_*.npz`:
final `latent` and `picture` (uint8), {WIDTH}x{HEIGHT}, from the picture and the mask of
`started.py`.
"""
PIPES = {
    ("SD 1.x", "img2img"): StableDiffusionImg2ImgPipeline,
    ("SD 1.x", "inpaint"): StableDiffusionInpaintPipeline,
    ("SD 1.x", "edit"): StableDiffusionInstructPix2PixPipeline,
    ("SDXL", "inpaint"): StableDiffusionXLInpaintPipeline,
    ("SDXL", "edit"): StableDiffusionXLInstructPix2PixPipeline,
}
ENDS = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
PROMPTS = {"prompt": PROMPT, "negative_prompt": NEGATIVE}


def pipeline(name: str):
    """Diffusers' pipeline for a case of SMALL, of make_families' parts."""
    base, task, case = SMALL[name]
    kind = f"{base} {name}"
    make_names.UNETS[kind] = {**make_names.UNETS[base], "in_channels": case.channels}
    parts = make_families.pipeline(kind, "epsilon", ENDS).components
    parts["scheduler"] = euler()
    if base == "SD 1.x":
        parts["requires_safety_checker"] = False
    elif task == "edit":
        del parts["feature_extractor"], parts["image_encoder"]
    if name == "cosxl_edit":
        scheduler = EDMEulerScheduler.from_config(EDM, sigma_schedule="exponential")
        parts |= {"scheduler": scheduler, "is_cosxl_edit": True}
    return PIPES[base, task](**parts)


def edit(pipe, case: Case) -> dict[str, np.ndarray]:
    """Final latent and picture of a pipeline that is shown a picture to edit."""
    pipe.set_progress_bar_config(disable=True)
    noise = torch.from_numpy(philox((1, 4, HEIGHT // 8, WIDTH // 8), SEED, 0))
    if "EDM" in type(pipe.scheduler).__name__:  # begins with √(sigma_max² + 1)
        pipe.scheduler.set_timesteps(STEPS)
        noise *= pipe.scheduler.sigmas[0] / pipe.scheduler.init_noise_sigma
    is_xl = isinstance(pipe, StableDiffusionXLInstructPix2PixPipeline)
    size = {"width": WIDTH, "height": HEIGHT} if is_xl else {}
    latent = pipe(
        **PROMPTS,
        **size,
        image=Image.fromarray(started.picture(WIDTH, HEIGHT)),
        latents=noise,
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        image_guidance_scale=case.image_cfg,
        output_type="latent",
    ).images
    return {"latent": latent.numpy(), "picture": decoded(pipe.vae, latent)}


def main():
    listed = {}
    for name, (_, task, case) in SMALL.items():
        pipe = pipeline(name)
        listed[name] = {
            folder: make_families.shapes_of(getattr(pipe, folder))
            for folder in ("unet", "vae", "text_encoder", "text_encoder_2")
            if hasattr(pipe, folder)
        }
        paints = task != "edit"
        found = (
            paint(pipe, case, PROMPTS, WIDTH, HEIGHT) if paints else edit(pipe, case)
        )
        np.savez_compressed(FOLDER / f"started_{name}.npz", **found)
        print(name, {k: (a.shape, round(float(a.std()), 3)) for k, a in found.items()})
    text = json.dumps(listed, separators=(",", ":")).encode()
    (FOLDER / "started.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    record("make_img2img_small.py", PACKAGES, NOTES)


if __name__ == "__main__":
    main()
