"""Golden pictures of narrow models of the families, by diffusers' own pipelines.

Run: python tests/golden/make_families.py (torch, diffusers, transformers,
stable-diffusion-cpp-python, gguf; 2 min).
"""

import gzip
import json
import tempfile
from pathlib import Path

import make_names
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from make_pictures import philox
from provenance import FOLDER, record
from small_families import (
    CFG,
    HEIGHT,
    NEGATIVE,
    PROMPT,
    SEED,
    STEPS,
    WIDTH,
    weights,
)
from test_tokenizer import write_small_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

PACKAGES = ("torch", "diffusers", "transformers", "numpy")
NOTES = f"""
`families.json.gz`: kind of model → folder → name → shape, as diffusers has them, of the
models of `small_families.py`. `family_*.npz`: each prompt's text states (`context`,
every 16th channel) and, for SDXL, `vector`, prompt first; initial `noise`; final
`latent` and `picture` (uint8) of the pipeline, {STEPS} Euler steps, guidance {CFG:g}.
`sdxl_empty` has a negative prompt of zeros, with the pooled state of an empty one.
"""

# File → kind of model, what the UNet predicts, whether the negative prompt is empty.
CASES = {
    "sd2": ("SD 2.x", "epsilon", False),
    "sd2_v": ("SD 2.x", "v_prediction", False),
    "sdxl": ("SDXL", "epsilon", False),
    "sdxl_empty": ("SDXL", "epsilon", True),
    "refiner": ("SDXL Refiner", "epsilon", False),
}
VAE = {
    "block_out_channels": (32, 64, 96, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TEXTS = {  # width, layers, activation
    "l": (768, 3, "quick_gelu"),
    "h": (1024, 2, "gelu"),  # in diffusers' folders without the last
    "g": (1280, 3, "gelu"),
}
ENCODERS = {  # by the width of the UNet's text states
    768: {"text_encoder": "l"},
    1024: {"text_encoder": "h"},
    2048: {"text_encoder": "l", "text_encoder_2": "g"},
    1280: {"text_encoder_2": "g"},
}


def narrow(kind: str) -> dict:
    """The kind's UNet with 64 channels at its finest level, its heads as wide."""
    changes = {**make_names.UNET, **make_names.UNETS[kind]}
    widths = changes["block_out_channels"]
    changes["block_out_channels"] = tuple(64 * x // widths[0] for x in widths)
    if changes["attention_head_dim"] != 8:
        changes["attention_head_dim"] = tuple(x // widths[0] for x in widths)
    return changes


def text_encoder(name: str) -> torch.nn.Module:
    width, layers, activation = TEXTS[name]
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
        vocab_size=1000,
        hidden_act=activation,
        bos_token_id=998,
        eos_token_id=999,
    )
    kinds = {"g": CLIPTextModelWithProjection}
    return kinds.get(name, CLIPTextModel)(config)


def models(kind: str) -> dict[str, torch.nn.Module]:
    """Folder → diffusers' or transformers' model, filled."""
    unet = make_names.unet_model(narrow(kind), device="cpu")
    scale = 0.13025 if "SDXL" in kind else 0.18215
    found = {
        "unet": unet,
        "vae": AutoencoderKL(**VAE, latent_channels=4, scaling_factor=scale),
    }
    for folder, name in ENCODERS[unet.config.cross_attention_dim].items():
        found[folder] = text_encoder(name)
    for folder, model in found.items():
        made = weights(folder, shapes_of(model))
        state = {name: torch.from_numpy(a).float() for name, a in made.items()}
        model.load_state_dict(state, strict=True, assign=True)
        model.eval().requires_grad_(False)
    return found


def shapes_of(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(array.shape) for name, array in model.state_dict().items()}


def pipeline(kind: str, prediction: str, padded: dict[str, str]):
    """Diffusers' pipeline. `padded`: tokenizer folder → its padding."""
    parts = models(kind)
    with tempfile.TemporaryDirectory() as folder:
        write_small_tokenizer(Path(folder) / "small")
        for encoder in [name for name in parts if name.startswith("text")]:
            name = encoder.replace("text_encoder", "tokenizer")
            parts[name] = CLIPTokenizer.from_pretrained(
                Path(folder) / "small", pad_token=padded[name], model_max_length=77
            )
    parts["scheduler"] = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="linspace",
        prediction_type=prediction,
    )
    if kind == "SDXL Refiner":
        return StableDiffusionXLImg2ImgPipeline(
            **parts,
            text_encoder=None,
            tokenizer=None,
            requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False,
        )
    if "SDXL" in kind:
        return StableDiffusionXLPipeline(**parts)
    return StableDiffusionPipeline(
        **parts,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def paint(kind: str, prediction: str, empty: bool) -> dict[str, np.ndarray]:
    """What NOTES say a file holds."""
    last = "!"  # id 0, what OpenCLIP's tokenizers pad with
    padded = {
        "tokenizer": last
        if kind.startswith("SD 2") or "(09)" in kind
        else "<|endoftext|>",
        "tokenizer_2": last,
    }
    pipe = pipeline(kind, prediction, padded)
    pipe.set_progress_bar_config(disable=True)
    noise = philox((1, 4, HEIGHT // 8, WIDTH // 8), SEED, 0)
    latents = torch.from_numpy(noise)
    is_xl = "SDXL" in kind
    encode = {"device": "cpu", "num_images_per_prompt": 1}
    encode |= {"do_classifier_free_guidance": True}
    states = pipe.encode_prompt(
        PROMPT, negative_prompt="" if empty else NEGATIVE, **encode
    )
    given = dict(zip(("prompt_embeds", "negative_prompt_embeds"), states, strict=False))
    if is_xl:
        names = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        given |= dict(zip(names, states[2:], strict=True))
    if empty:
        given["negative_prompt_embeds"] = torch.zeros_like(states[1])
    settings = {"num_inference_steps": STEPS, "guidance_scale": CFG}
    if kind == "SDXL Refiner":
        pipe.scheduler.set_timesteps(STEPS)
        latents = latents * pipe.scheduler.init_noise_sigma
        settings |= {"image": latents, "denoising_start": 1e-4, "strength": 1.0}
        settings |= {"original_size": (HEIGHT, WIDTH), "target_size": (HEIGHT, WIDTH)}
    else:
        settings |= {"latents": latents, "width": WIDTH, "height": HEIGHT}
    seen, unet = [], pipe.unet
    forward = unet.forward

    def spy(*args, **kwargs):
        seen.append(kwargs)
        return forward(*args, **kwargs)

    unet.forward = spy
    latent = pipe(**given, **settings, output_type="latent").images
    image = pipe.vae.decode(latent / pipe.vae.config.scaling_factor).sample
    unit = (image[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1)
    context = seen[0]["encoder_hidden_states"]  # negative prompt first
    found = {
        "context": context.flip(0)[..., ::16].numpy(),
        "noise": noise,
        "latent": latent.numpy(),
        "picture": np.floor(unit * 255 + 0.5).astype(np.uint8),
    }
    if is_xl:
        added = seen[0]["added_cond_kwargs"]
        waves = unet.add_time_proj(added["time_ids"].flatten()).reshape(2, -1)
        vector = torch.cat([added["text_embeds"], waves], dim=1)
        found["vector"] = vector.flip(0).numpy()
    return found


def main():
    listed = {}
    for file, case in CASES.items():
        parts = models(case[0])
        listed[case[0]] = {name: shapes_of(model) for name, model in parts.items()}
        found = paint(*case)
        np.savez_compressed(FOLDER / f"family_{file}.npz", **found)
        print(file, {k: (a.shape, round(float(a.std()), 3)) for k, a in found.items()})
    text = json.dumps(listed, separators=(",", ":")).encode()
    (FOLDER / "families.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    record("make_families.py", PACKAGES, NOTES)


if __name__ == "__main__":
    main()
