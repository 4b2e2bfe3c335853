"""Golden names: each SD 1.5 tensor's name and shape in LDM and in diffusers files.

Run: python tests/golden/make_names.py (torch, diffusers, transformers; 10 s).
diffusers' own converters rename tensors that carry their number, so which became which
is theirs to say; names and shapes are checked against the models' parameters.
"""

import gzip
import json

import reference
import seeded
import torch
from provenance import FOLDER, record
from transformers import CLIPTextModel

NOTES = """
`names.json.gz`: size → part → [LDM name, LDM shape, diffusers name, diffusers shape].
"""


def renamed(prefix: str, shapes: seeded.Shapes, convert) -> dict[str, str]:
    """LDM name → diffusers name."""
    names = [name for name in shapes if name.startswith(prefix)]
    tagged = {
        name: torch.full((1,) * len(shapes[name]), float(number))
        for number, name in enumerate(names)
    }
    return {names[int(tag.item())]: new for new, tag in convert(tagged).items()}


def rows(size: str, part: str) -> list[list]:
    shapes = reference.SHAPES[size]()
    if part == "unet":
        model, prefix = reference.unet(size), seeded.UNET
        names = renamed(
            prefix,
            shapes,
            lambda t: reference.convert_ldm_unet_checkpoint(t, model.config),
        )
    elif part == "vae":
        model, prefix = reference.vae(size), seeded.VAE
        names = renamed(
            prefix,
            shapes,
            lambda t: reference.convert_ldm_vae_checkpoint(t, model.config),
        )
    else:
        model, prefix = reference.text_encoder(size), seeded.TEXT
        names = {n: n.removeprefix(prefix) for n in shapes if n.startswith(prefix)}
        if isinstance(model, CLIPTextModel):  # published files keep the root
            names = {ldm: f"text_model.{name}" for ldm, name in names.items()}
    own = {
        k.removeprefix("text_model."): v.shape for k, v in model.state_dict().items()
    }
    assert {name.removeprefix("text_model.") for name in names.values()} == own.keys()
    return [
        [ldm, shapes[ldm], new, list(own[new.removeprefix("text_model.")])]
        for ldm, new in names.items()
    ]


def main():
    found = {
        size: {part: rows(size, part) for part in ("unet", "vae", "clip_l")}
        for size in ("small", "full")
    }
    text = json.dumps(found, separators=(",", ":")).encode()
    (FOLDER / "names.json.gz").write_bytes(gzip.compress(text, mtime=0))
    record("make_names.py", ("torch", "diffusers", "transformers"), NOTES)


if __name__ == "__main__":
    main()
