"""Golden pictures that start from a picture, of full-size SD 1.5: torch's and sd.cpp's.

Run: python tests/golden/make_img2img.py (torch, diffusers, transformers,
stable-diffusion-cpp-python; 8 GB, 10 min). The weights are those of tests/seeded.py,
with a wider first convolution for inpainting; stable-diffusion.cpp reads them from 2 GB
F16 files in a temporary folder.
"""

import gc
import sys
import tempfile
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import seeded
import started
from make_pictures import philox, psnr
from provenance import FOLDER, record
from started import CFG, NEGATIVE, PROMPT, SEED, STEPS, STRENGTH, THEIR_STRENGTH, Case

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "stable-diffusion-cpp-python",
    "numpy",
    "pillow",
)
WIDTH = HEIGHT = 128
CASES = {
    "img2img": Case(4, False),
    "inpaint": Case(4, True),
    "inpaint_model": Case(9, True),
}


def seeded_noise(channels: int = 4):
    """Draws of one seed in turn, as torch tensors."""
    import torch

    calls = count()

    def draw(shape, **_) -> torch.Tensor:
        return torch.from_numpy(philox(tuple(shape), SEED, next(calls)))

    return draw


@contextmanager
def our_noise(*modules):
    """Diffusers' random numbers replaced: pictures are encoded with the seed's stream,
    and the latent is noised with the seed's first draw, as in stable-diffusion.cpp."""
    from diffusers.models.autoencoders import vae

    before = {module: module.randn_tensor for module in (vae, *modules)}
    vae.randn_tensor = seeded_noise()
    for module in modules:
        module.randn_tensor = lambda shape, **_: seeded_noise()(shape)
    try:
        yield
    finally:
        for module, function in before.items():
            module.randn_tensor = function


def euler(**changes):
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="linspace",
        **changes,
    )


def paint(pipe, case: Case, embeds: dict, width: int, height: int) -> dict:
    """Final latent and picture of a diffusers pipeline for img2img or inpainting."""
    module = sys.modules[type(pipe).__module__]
    pipe.set_progress_bar_config(disable=True)
    image = Image.fromarray(started.picture(width, height))
    given = {"mask_image": Image.fromarray(started.mask(width, height))}
    given |= {"width": width, "height": height}
    if case.channels == 9:
        given["callback_on_step_end"] = blend(pipe, width, height)
    with our_noise(module):
        latent = pipe(
            image=image,
            strength=THEIR_STRENGTH,
            num_inference_steps=STEPS,
            guidance_scale=CFG,
            output_type="latent",
            **(given if case.masked else {}),
            **embeds,
        ).images
    return {"latent": latent.numpy(), "picture": decoded(pipe.vae, latent)}


def decoded(vae, latent) -> np.ndarray:
    image = vae.decode(latent / vae.config.scaling_factor).sample
    unit = (image[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1)
    return np.floor(unit * 255 + 0.5).astype(np.uint8)


def blend(pipe, width: int, height: int):
    """Diffusers leaves all to a model for inpainting; we keep what is away from the
    mask, by a latent pixel, as stable-diffusion.cpp does."""
    import torch
    from torch.nn.functional import max_pool2d

    white = torch.from_numpy(started.mask(width, height) / np.float32(255))
    near = max_pool2d(max_pool2d(white[None, None], 8), 3, stride=1, padding=1)
    encode, encoded = pipe._encode_vae_image, []
    noise = seeded_noise()((1, 4, height // 8, width // 8))

    def spy(*args, **kwargs):
        encoded.append(encode(*args, **kwargs))
        return encoded[-1]

    pipe._encode_vae_image = spy

    def step(pipe, index, time, kept):
        sigma = pipe.scheduler.sigmas[pipe.scheduler.step_index]
        known = encoded[0] + sigma * noise
        return {"latents": near * kept["latents"] + (1 - near) * known}

    return step


def paint_torch() -> dict[str, dict[str, np.ndarray]]:
    import reference
    import torch
    from diffusers import (
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
    )
    from make_tokens import vocabulary
    from transformers import CLIPTokenizer

    vocab, merges = vocabulary()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges)
    words = [PROMPT, NEGATIVE]
    ids = np.array(tokenizer(words, padding="max_length", max_length=77).input_ids)
    states, _ = reference.run_text(reference.text_encoder("full"), ids)
    names = ("prompt_embeds", "negative_prompt_embeds")
    embeds = {n: torch.from_numpy(s[None]) for n, s in zip(names, states, strict=True)}
    vae, found = reference.vae("full"), {}
    for name, case in CASES.items():
        gc.collect()
        classes = StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
        pipe = classes[case.masked](
            vae=vae,
            text_encoder=None,
            tokenizer=None,
            unet=reference.unet("full", case.channels),
            scheduler=euler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        found[name] = paint(pipe, case, embeds, WIDTH, HEIGHT)
        print(name, "painted by diffusers", flush=True)
        del pipe
    return found


def paint_sdcpp(folder: Path) -> dict[str, np.ndarray]:
    import stable_diffusion_cpp

    pictures = {}
    for channels in (4, 9):
        checkpoint = folder / f"{channels}.safetensors"
        shapes = seeded.with_inputs(seeded.sd1_shapes(), channels)
        seeded.save(checkpoint, shapes, "F16", seeded.extra_buffers())
        model = stable_diffusion_cpp.StableDiffusion(
            model_path=str(checkpoint), n_threads=2, rng_type="cuda", verbose=False
        )
        for name, case in CASES.items():
            if case.channels != channels:
                continue
            white = started.mask(WIDTH, HEIGHT)
            (image,) = model.generate_image(
                prompt=PROMPT,
                negative_prompt=NEGATIVE,
                init_image=Image.fromarray(started.picture(WIDTH, HEIGHT)),
                mask_image=Image.fromarray(white) if case.masked else None,
                width=WIDTH,
                height=HEIGHT,
                cfg_scale=CFG,
                image_cfg_scale=1.0,  # this version's default is cfg_scale
                sample_steps=STEPS,
                strength=STRENGTH,
                sample_method="euler",
                scheduler="discrete",
                seed=SEED,
            )
            pictures[name] = np.asarray(image.convert("RGB"))
            print(name, "painted by stable-diffusion.cpp", flush=True)
        del model
        gc.collect()
        checkpoint.unlink()
    return pictures


def main():
    with tempfile.TemporaryDirectory() as folder:
        others = paint_sdcpp(Path(folder))
    lines = []
    for name, result in paint_torch().items():
        other = others[name]
        Image.fromarray(other).save(FOLDER / f"sdcpp_{name}.png", optimize=True)
        np.savez_compressed(FOLDER / f"picture_{name}.npz", **result)
        both = f"{psnr(result['picture'], other):.1f} dB between the two"
        lines.append(f"- `{name}`: {both}")
        print(lines[-1])
    notes = (
        "As those of make_pictures.py, from the picture and the mask of `started.py`, "
        f"{WIDTH}x{HEIGHT}.\n\n"
    )
    record("make_img2img.py", PACKAGES, notes + "\n".join(lines))


if __name__ == "__main__":
    main()
