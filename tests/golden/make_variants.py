"""Golden pictures of what is told a UNet beside its prompt, by diffusers' pipelines.

Run: python tests/golden/make_variants.py (torch, diffusers, transformers,
stable-diffusion-cpp-python, gguf; 2 min).
"""

import gzip
import json

import make_families
import make_names
import numpy as np
import torch
from diffusers import (
    EDMEulerScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
)
from make_pictures import philox
from provenance import FOLDER, record
from small_families import (
    CFG,
    CROP,
    EDM_STEPS,
    HEIGHT,
    LCM_STEPS,
    NEGATIVE,
    ORIGINAL,
    PROMPT,
    SEED,
    SIGMAS,
    STEPS,
    SWITCH,
    TARGET,
    WIDTH,
    Case,
)

PACKAGES = ("torch", "diffusers", "transformers", "numpy")
NOTES = f"""
`variants.json.gz`: as `families.json.gz`. `variant_*.npz`: final `latent` and `picture`
(uint8) of the models of `small_families.py`, {STEPS} Euler steps, guidance {CFG:g}:
- `lcm`: a UNet that is told its guidance, {LCM_STEPS} steps, guidance 8.5, with torch's
  random numbers; `told` is the embedding of the guidance. Diffusers begins with what
  the UNet is shown at size 1, here at that of sigma_max, a part in 400 less.
- `sizes`: SDXL, told of other sizes than the picture's; `vectors`: the numbers that it
  is told by default, and with each of original size, crop and target size changed.
- `edm`: SDXL at noise levels of EDM from {SIGMAS[0]} to {SIGMAS[1]}, predicting
  velocity, {EDM_STEPS} steps: more magnify rounding beyond comparison. Diffusers begins
  with noise of √(sigma_max² + 1), here sigma_max.
- `two_stages`: SDXL for {SWITCH:g} of the steps, then its refiner.
"""

make_names.UNETS["SD 1.x LCM"] = {"time_cond_proj_dim": 256}
QUIET = {"disable": True}


def ours(pipe) -> dict:
    """Prompts, size and noise as in the other golden pictures."""
    noise = philox((1, 4, HEIGHT // 8, WIDTH // 8), SEED, 0)
    pipe.set_progress_bar_config(**QUIET)
    return {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "width": WIDTH,
        "height": HEIGHT,
        "num_inference_steps": STEPS,
        "guidance_scale": CFG,
        "latents": torch.from_numpy(noise),
        "output_type": "latent",
    }


def decoded(pipe, latent: torch.Tensor) -> dict[str, np.ndarray]:
    image = pipe.vae.decode(latent / pipe.vae.config.scaling_factor).sample
    unit = (image[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1)
    return {
        "latent": latent.numpy(),
        "picture": np.floor(unit * 255 + 0.5).astype(np.uint8),
    }


def lcm() -> dict[str, np.ndarray]:
    pipe = make_families.pipeline(Case("SD 1.x LCM"))
    parts = {**pipe.components, "image_encoder": None}
    del parts["image_encoder"]
    parts["scheduler"] = LCMScheduler.from_config(pipe.scheduler.config)
    pipe = LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
    settings = ours(pipe) | {"num_inference_steps": LCM_STEPS, "guidance_scale": 8.5}
    del settings["negative_prompt"]
    settings["generator"] = torch.Generator().manual_seed(SEED)
    noise = torch.randn(
        (1, 4, HEIGHT // 8, WIDTH // 8), generator=settings["generator"]
    )
    # As noise of sigma_max, scaled to what the UNet is shown of it.
    settings["latents"] = noise * (1 - pipe.scheduler.alphas_cumprod[-1]).sqrt()
    latent = pipe(**settings).images
    told = pipe.get_guidance_scale_embedding(torch.tensor([7.5]), 256)
    return decoded(pipe, latent) | {"told": told.numpy()}


def sizes() -> dict[str, np.ndarray]:
    pipe = make_families.pipeline(Case("SDXL"))
    settings = ours(pipe)
    seen, forward = [], pipe.unet.forward

    def spy(*args, **kwargs):
        seen.append(kwargs["added_cond_kwargs"]["time_ids"])
        return forward(*args, **kwargs)

    pipe.unet.forward = spy
    vectors = []
    changes = (
        {"original_size": ORIGINAL},
        {"crops_coords_top_left": CROP},
        {"target_size": TARGET},
    )
    for change in ({}, *changes):
        seen.clear()
        pipe(**settings | {"num_inference_steps": 1} | change)
        negative, positive = seen[0].numpy()
        assert (negative == positive).all()
        vectors.append(positive)
    every = {key: value for change in changes for key, value in change.items()}
    return decoded(pipe, pipe(**settings, **every).images) | {
        "vectors": np.array(vectors)
    }


def edm() -> dict[str, np.ndarray]:
    pipe = make_families.pipeline(Case("SDXL"))
    low, high = SIGMAS
    pipe.scheduler = EDMEulerScheduler(
        sigma_min=low,
        sigma_max=high,
        sigma_data=1.0,
        sigma_schedule="exponential",
        prediction_type="v_prediction",
    )
    settings = ours(pipe) | {"num_inference_steps": EDM_STEPS}
    settings["latents"] = settings["latents"] * (high / (high**2 + 1) ** 0.5)
    return decoded(pipe, pipe(**settings).images)


def two_stages() -> dict[str, np.ndarray]:
    base = make_families.pipeline(Case("SDXL"))
    latent = base(**ours(base), denoising_end=SWITCH).images
    refiner = make_families.pipeline(Case("SDXL Refiner"))
    settings = ours(refiner) | {"image": latent, "denoising_start": SWITCH}
    for name in ("latents", "width", "height"):
        del settings[name]
    settings |= {"original_size": (HEIGHT, WIDTH), "target_size": (HEIGHT, WIDTH)}
    return decoded(base, refiner(**settings).images)


def main():
    parts = make_families.models("SD 1.x LCM")
    shapes = {name: make_families.shapes_of(model) for name, model in parts.items()}
    text = json.dumps({"SD 1.x LCM": shapes}, separators=(",", ":")).encode()
    (FOLDER / "variants.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    for paint in (lcm, sizes, edm, two_stages):
        found = paint()
        np.savez_compressed(FOLDER / f"variant_{paint.__name__}.npz", **found)
        print(
            paint.__name__,
            {k: (a.shape, round(float(a.std()), 3)) for k, a in found.items()},
        )
    record("make_variants.py", PACKAGES, NOTES)


if __name__ == "__main__":
    main()
