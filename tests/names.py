"""Every tensor of every family, as single files, folders and GGUF files call it.

The lists are those of golden/names.json.gz; prefixes are as published.
"""

import functools
import gzip
import json
from pathlib import Path

import pytest
import seeded

from mlx_sd.convert.detect import Contents, as_part, combined, identify
from mlx_sd.convert.readers import Entry

NAMES = json.loads(
    gzip.decompress((Path(__file__).parent / "golden/names.json.gz").read_bytes())
)
UNET, VAE = {"unet": "model.diffusion_model."}, {"vae": "first_stage_model."}
PREFIXES = {  # of single files, by base
    "sd1": {**UNET, **VAE, "clip_l": "cond_stage_model.transformer."},
    "sd2": {**UNET, **VAE, "clip_h": "cond_stage_model.model."},
    "sdxl": {
        **UNET,
        **VAE,
        "clip_l": "conditioner.embedders.0.transformer.",
        "clip_g": "conditioner.embedders.1.model.",
    },
    "sdxl_refiner": {**UNET, **VAE, "clip_g": "conditioner.embedders.0.model."},
}
FOLDERS = {
    "unet": "unet",
    "vae": "vae",
    "clip_l": "text_encoder",
    "clip_h": "text_encoder",
    "clip_g": "text_encoder_2",
}

# Kind of model as users know it → its base, whose UNet's list, channels taken.
KINDS: dict[str, tuple[str, str, int]] = {
    **{
        unet: (
            "sdxl_refiner"
            if "Refiner" in unet
            else "sdxl"
            if "SDXL" in unet
            else "sd2"
            if "SD 2" in unet or unet == "SDXS (09)"
            else "sd1",
            unet,
            4,
        )
        for unet in NAMES["unet"]
    },
    "SD 1.x Inpaint": ("sd1", "SD 1.x", 9),
    "Instruct-Pix2Pix": ("sd1", "SD 1.x", 8),
    "SD 2.x Inpaint": ("sd2", "SD 2.x", 9),
    "SDXL Inpaint": ("sdxl", "SDXL", 9),
    "SDXL Instruct-Pix2Pix": ("sdxl", "SDXL", 8),
}
# With one more tensor: LCM's UNets are told the guidance.
LCM = {f"{kind} LCM": KINDS[kind] for kind in ("SD 1.x", "SDXL")}

Row = tuple[str, list[int], str | None, list[int] | None]


def rows(kind: str) -> dict[str, list[Row]]:
    """Part → (LDM name, shape, diffusers name, shape), names without prefixes."""
    base, unet, channels = {**KINDS, **LCM}[kind]
    found = {"unet": NAMES["unet"][unet]}
    if channels != 4:
        found["unet"] = [
            [row[0], _channels(row[1], channels), row[2], _channels(row[3], channels)]
            if row[2] == "conv_in.weight"
            else row
            for row in found["unet"]
        ]
    if kind in LCM:
        shape = [320, 256]
        told = "time_embed.cond_proj.weight", "time_embedding.cond_proj.weight"
        found["unet"] = [*found["unet"], [told[0], shape, told[1], shape]]
    return found | {p: NAMES[p] for p in PREFIXES[base] if p != "unet"}


def ldm(kind: str) -> seeded.Shapes:
    """A single file, as the family's authors published it."""
    prefixes = PREFIXES[{**KINDS, **LCM}[kind][0]]
    return {
        prefixes[part] + name: tuple(shape)
        for part, of_part in rows(kind).items()
        for name, shape, _, _ in of_part
    }


def diffusers(kind: str) -> dict[str, seeded.Shapes]:
    """Part → what its folder holds."""
    return {
        part: {name: tuple(shape) for _, _, name, shape in of_part if name}
        for part, of_part in rows(kind).items()
    }


def sdcpp(kind: str) -> seeded.Shapes:
    """A single file's tensors, as stable-diffusion.cpp renames them for GGUF."""
    new = NAMES["sdcpp"][KINDS[kind][0]]
    return {new.get(name, name): shape for name, shape in ldm(kind).items()}


def _channels(shape: list[int], channels: int) -> list[int]:
    return [shape[0], channels, *shape[2:]]


def described(shapes: seeded.Shapes) -> dict[str, Entry]:
    """As a reader would; nothing can be read."""
    return {name: entry(name, shape) for name, shape in shapes.items()}


def entry(name: str, shape: tuple[int, ...]) -> Entry:
    return Entry(Path("x"), name, "F16", shape, 6, lambda: pytest.fail("is read"))


def folder(kind: str) -> Contents:
    contents = Contents.empty()
    for part, shapes in diffusers(kind).items():
        slot = "clip_l" if part == "clip_h" else part
        contents = combined(contents, as_part(described(shapes), slot))
    return contents


@functools.cache
def contents(kind: str, scheme: str) -> Contents:
    """What we make of a kind of model, in a scheme of EVERY."""
    if scheme == "diffusers":
        return folder(kind)
    return identify(described(SCHEMES[scheme](kind)))


SCHEMES = {"ldm": ldm, "sdcpp": sdcpp}
EVERY = [
    (kind, scheme)
    for kind in KINDS
    for scheme in ("ldm", "diffusers", "sdcpp")
    if scheme != "sdcpp" or KINDS[kind][0] in NAMES["sdcpp"]
]
