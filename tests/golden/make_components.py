"""Golden outputs of the networks of every family at full size, in float32.

Run: python tests/golden/make_components.py (torch, diffusers, transformers; 5 GB,
5 min). UNets are never whole in memory: each layer's weights are made as it runs.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import make_names
import numpy as np
import torch
from diffusers import AutoencoderKL
from provenance import FOLDER, record
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

sys.path.insert(0, str(Path(__file__).parents[1]))
import reference
import seeded
from components import (
    KEPT,
    NAMES,
    NUMBERS,
    SIDES,
    TEXTS,
    TIME,
    TOKENS,
    UNETS,
    VOCABULARY,
    given,
    ids,
)

PACKAGES = ("torch", "diffusers", "transformers", "numpy")
NOTES = f"""
`components.npz`, of what `components.py` gives: `<kind of model>`, what its UNet
predicts (NCHW); `clip_h_last` after the final norm and `clip_g_penultimate` before the
last layer, every {KEPT}th feature, and `clip_g_pooled`; `vae`, the picture of a latent
in SDXL's scale.
"""


def streamed(model: torch.nn.Module, weight: Callable[[str], np.ndarray]):
    """The model, of which a layer has weights only while it runs."""
    model.eval().requires_grad_(False)
    for path, layer in model.named_modules():
        own = list(dict(layer.named_parameters(recurse=False)))
        if not own:
            continue

        def fill(layer, _, path=path, own=own):
            for name in own:
                array = weight(f"{path}.{name}")
                if array.shape != layer._parameters[name].shape:
                    raise ValueError(f"{path}.{name}: {array.shape}")
                tensor = torch.from_numpy(array)
                layer._parameters[name] = torch.nn.Parameter(tensor, False)

        def clear(layer, *_, own=own):
            for name in own:
                empty = layer._parameters[name].to("meta")
                layer._parameters[name] = torch.nn.Parameter(empty, False)

        layer.register_forward_pre_hook(fill)
        layer.register_forward_hook(clear)
    return model


def unet(kind: str) -> np.ndarray:
    base, channels = UNETS[kind]
    changes = {**make_names.UNETS[base], "in_channels": channels}
    rows = {row[2]: row for row in NAMES["unet"][base]}
    used = []

    def weight(name: str) -> np.ndarray:
        used.append(name)
        ldm, shape = rows[name][:2]
        if name == "conv_in.weight":
            shape = [shape[0], channels, *shape[2:]]
        return seeded.tensor(seeded.UNET + ldm, tuple(shape))

    model = streamed(make_names.unet_model(changes), weight)
    width = model.config.cross_attention_dim
    added = {}
    if vector := model.config.projection_class_embeddings_input_dim:
        numbers = NUMBERS[vector]
        pooled = given("pooled", 1, vector - 256 * len(numbers))
        added = {
            "text_embeds": torch.from_numpy(pooled),
            "time_ids": torch.tensor([numbers]),
        }
    out = model(
        torch.from_numpy(given("latent", 1, channels, *SIDES)),
        torch.tensor([TIME]),
        torch.from_numpy(given("context", 1, TOKENS, width)),
        added_cond_kwargs=added,
    ).sample
    if sorted(used) != sorted(rows):
        raise ValueError(f"{kind}: {len(used)} weights used of {len(rows)}")
    return out.numpy()


def text(part: str) -> dict[str, np.ndarray]:
    prefix, width, _, layers, projection = make_names.TEXTS[part]
    shapes = {row[0]: tuple(row[1]) for row in NAMES[part]}
    arrays = {name: seeded.tensor(prefix + name, s) for name, s in shapes.items()}
    state = make_names.by_diffusers(part, arrays)
    del arrays
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
        vocab_size=VOCABULARY,
        hidden_act="gelu",
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
    )
    with torch.device("meta"):
        model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    own = {name.removeprefix("text_model."): name for name in model.state_dict()}
    filled = {
        own[name.removeprefix("text_model.")]: torch.from_numpy(array)
        for name, array in state.items()
        if name.removeprefix("text_model.") in own
    }
    model.load_state_dict(filled, strict=True, assign=True)
    for module in model.modules():  # a computed buffer, which "meta" left empty
        if hasattr(module, "position_ids"):
            module.position_ids = torch.arange(77)[None]
    model.eval().requires_grad_(False)
    out = model(torch.from_numpy(ids()), output_hidden_states=True)
    if not projection:
        return {f"{part}_last": out.last_hidden_state[..., ::KEPT].numpy()}
    return {
        f"{part}_penultimate": out.hidden_states[-2][..., ::KEPT].numpy(),
        f"{part}_pooled": out.text_embeds.numpy(),
    }


def vae() -> np.ndarray:
    model = reference.vae("full")
    if not isinstance(model, AutoencoderKL):
        raise TypeError(model)
    return model.decode(
        torch.from_numpy(given("z", 1, 4, 8, 12)) / 0.13025
    ).sample.numpy()


def main():
    found = {}
    for kind in UNETS:
        found[kind] = unet(kind)
        print(f"{kind}: deviation {found[kind].std():.3f}", flush=True)
    for part in TEXTS:
        found |= (made := text(part))
        sizes = {name: round(float(array.std()), 3) for name, array in made.items()}
        print(sizes, flush=True)
    found["vae"] = vae()
    print(f"VAE: deviation {found['vae'].std():.3f}", flush=True)
    if not all(math.isfinite(array.sum()) for array in found.values()):
        raise ValueError("not finite")
    np.savez_compressed(FOLDER / "components.npz", **found)
    record("make_components.py", PACKAGES, NOTES)


if __name__ == "__main__":
    main()
