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
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from make_pictures import philox
from provenance import FOLDER, record
from small_families import CASES, HEIGHT, PROMPT, SEED, STATES, WIDTH, Case, weights
from test_tokenizer import write_small_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

PACKAGES = ("torch", "diffusers", "transformers", "numpy")
NOTES = """
`families.json.gz`: kind of model → folder → name → shape, as diffusers has them, of the
models of `small_families.py`. `families.npz`, of its cases: `<case>_latent`, the last
one, and `<case>_picture` (uint8) of diffusers' pipeline; of STATES, prompt first, each
prompt's text states too (`_context`, every 16th channel) and, for SDXL, `_vector`.
An empty negative prompt is diffusers' None.
"""

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


FOLDERS = "unet", "vae", "text_encoder", "text_encoder_2"


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
    unet = make_names.unet_model(narrow(kind))
    scale = 0.13025 if "SDXL" in kind else 0.18215
    with torch.device("meta"):
        vae = AutoencoderKL(**VAE, latent_channels=4, scaling_factor=scale)
    found = {"unet": unet, "vae": vae}
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


TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = {"discrete": "linspace", "simple": "trailing"}
TYPES = {"eps": "epsilon", "v": "v_prediction"}


def scheduler(case: Case):
    """Diffusers', which paints by the case's sampler and schedule."""
    if case.prediction == "edm_v":
        return EDMEulerScheduler(
            sigma_min=0.002,
            sigma_max=120.0,
            sigma_data=1.0,
            sigma_schedule=case.schedule,
            prediction_type="v_prediction",
        )
    kinds = {
        "euler": EulerDiscreteScheduler,
        "euler_a": EulerAncestralDiscreteScheduler,
    }
    made = kinds[case.sampler](
        **TABLE,
        timestep_spacing=SPACINGS[case.schedule],
        prediction_type=TYPES[case.prediction],
        rescale_betas_zero_snr=case.zero_snr,
    )
    if case.zero_snr:
        # Where no signal is left A1111 and ComfyUI have a sigma of 4519, diffusers of
        # 4096: enough for a network of random weights to paint something else.
        made.alphas_cumprod[-1] = 4.8973451890853435e-08
    return made


def pipeline(case: Case):
    """Diffusers' own."""
    parts = models(case.kind)
    for name in [name for name in parts if name.startswith("text")]:
        folder = name.replace("text_encoder", "tokenizer")
        second = parts[name].config.hidden_size > 768  # OpenCLIP's pads with id 0, "!"
        parts[folder] = tokenizer("!" if second else "<|endoftext|>")
    parts["scheduler"] = scheduler(case)
    if case.kind == "SDXL Refiner":
        return StableDiffusionXLImg2ImgPipeline(
            **parts,
            text_encoder=None,
            tokenizer=None,
            requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False,
        )
    if "SDXL" in case.kind:
        return StableDiffusionXLPipeline(**parts)
    return StableDiffusionPipeline(
        **parts,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tokenizer(pad: str) -> CLIPTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = write_small_tokenizer(Path(folder) / "small")
        return CLIPTokenizer.from_pretrained(path, pad_token=pad, model_max_length=77)


def start(case: Case, pipe) -> dict:
    """The noise of the case's seed, as the pipeline wants it."""
    sizes = {"width": WIDTH, "height": HEIGHT}
    if case.rng == "cpu":
        return sizes | {"generator": torch.Generator("cpu").manual_seed(SEED)}
    noise = torch.from_numpy(philox((1, 4, HEIGHT // 8, WIDTH // 8), SEED, 0))
    if case.prediction == "edm_v":
        # It starts at √(120² + 1), above its own first noise level; we at that.
        noise = noise * 120 / pipe.scheduler.init_noise_sigma
    if case.kind != "SDXL Refiner":
        return sizes | {"latents": noise}
    pipe.scheduler.set_timesteps(case.steps)
    latents = noise * pipe.scheduler.init_noise_sigma
    sizes = {"original_size": (HEIGHT, WIDTH), "target_size": (HEIGHT, WIDTH)}
    return sizes | {"image": latents, "denoising_start": 1e-4, "strength": 1.0}


def paint(case: Case, pipe) -> dict[str, np.ndarray]:
    """What NOTES say of a case."""
    pipe.set_progress_bar_config(disable=True)
    seen, unet = [], pipe.unet
    forward = unet.forward

    def spy(*args, **kwargs):
        seen.append(kwargs)
        return forward(*args, **kwargs)

    unet.forward = spy
    latent = pipe(
        PROMPT,
        negative_prompt=case.negative or None,
        num_inference_steps=case.steps,
        guidance_scale=case.cfg,
        output_type="latent",
        **start(case, pipe),
    ).images
    image = pipe.vae.decode(latent / pipe.vae.config.scaling_factor).sample
    unit = (image[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1)
    context = seen[0]["encoder_hidden_states"]  # negative prompt first
    found = {
        "latent": latent.numpy(),
        "picture": np.floor(unit * 255 + 0.5).astype(np.uint8),
        "context": context.flip(0)[..., ::16].numpy(),
    }
    if added := seen[0]["added_cond_kwargs"]:
        waves = unet.add_time_proj(added["time_ids"].flatten())
        vector = torch.cat([added["text_embeds"], waves.reshape(len(context), -1)], 1)
        found["vector"] = vector.flip(0).numpy()
    return found


def main():
    listed, kept = {}, {}
    for name, case in CASES.items():
        pipe = pipeline(case)
        listed[case.kind] = {
            part: shapes_of(getattr(pipe, part))
            for part in FOLDERS
            if getattr(pipe, part, None)
        }
        found = paint(case, pipe)
        wanted = found if name in STATES else ("latent", "picture")
        kept |= {f"{name}_{what}": found[what] for what in wanted}
        sizes = {k: (a.shape, round(float(a.std()), 3)) for k, a in found.items()}
        print(name, sizes, flush=True)
    np.savez_compressed(FOLDER / "families.npz", **kept)
    text = json.dumps(listed, separators=(",", ":")).encode()
    (FOLDER / "families.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    record("make_families.py", PACKAGES, NOTES)


if __name__ == "__main__":
    main()
