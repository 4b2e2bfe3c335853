"""The way back: which foreign tensors hold a part, in files that others read."""

from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import CheckpointError
from ..layouts import LINEAR, Layout
from . import clip, taesd, unet, vae
from .rule import Rules


@dataclass(frozen=True)
class Outgoing:
    """A tensor to write: `layout.theirs` makes it of the sources' arrays."""

    name: str
    sources: tuple[str, ...]  # our names
    layout: Layout


# Part → prefix and names in a single file as the family's own authors wrote it.
_LDM: dict[str, tuple[str, Rules]] = {
    "unet": ("model.diffusion_model.", unet.LDM),
    "vae": ("first_stage_model.", vae.LDM),
    "tae": ("tae.", taesd.DIFFUSERS),
    "clip_l": ("cond_stage_model.", clip.LDM),
    "clip_h": ("cond_stage_model.", clip.OPENCLIP),
    "clip_g": ("conditioner.embedders.1.", clip.OPENCLIP),
}
# What is the first text encoder of SDXL and of its refiner has a prefix of its own.
_FIRST = (("clip_l", "sdxl"), ("clip_g", "sdxl_refiner"))
_DEEPEST = "up.0.blocks.2.attn.norm.weight"

_DIFFUSERS: dict[str, tuple[str, Rules]] = {
    "unet": ("", unet.DIFFUSERS),
    "vae": ("", vae.DIFFUSERS),
    "tae": ("", taesd.DIFFUSERS),
    "clip_l": ("", clip.HUGGINGFACE),
    "clip_h": ("", clip.HUGGINGFACE),
    "clip_g": ("", clip.HUGGINGFACE),
}
SCHEMES = {"ldm": _LDM, "diffusers": _DIFFUSERS}


def outgoing(
    part: str, scheme: str, names: Iterable[str], base: str | None = None
) -> list[Outgoing]:
    """The foreign tensors that hold these parameters of a part.

    Args:
        scheme: "ldm", a single file, or "diffusers", the part's folder, whose names
            have no prefix.
        names: ours; all the parameters of the part.
        base: the `detect.Kind.base` of the model, on which prefixes and the number of
            axes of some weights depend; None for a part of no known model.

    Raises: CheckpointError for a parameter that the scheme has no name for.
    """
    names = dict.fromkeys(names)
    prefix, rules = SCHEMES[scheme][part]
    if scheme == "ldm" and (part, base) in _FIRST:
        prefix = "conditioner.embedders.0."
    found: dict[str, Outgoing] = {}
    for name in names:
        matches = list(rules.sources(name))
        if not matches:
            raise CheckpointError(f"the {part}'s {name} has no place in {scheme} files")
        # In LDM's the first upsampler follows a transformer where its block has one.
        if name.startswith("up.0.upsample.") and _DEEPEST not in names:
            matches.reverse()
        theirs, ours, layout = matches[0]
        if part == "unet" and ".attn.proj_" in name and base != "sd1":
            layout = LINEAR  # convolutions in SD 1.x alone
        found[theirs] = Outgoing(prefix + theirs, ours, layout)
    return list(found.values())
