"""Which foreign tensor is which parameter of ours: prefixes, name tables, the rest."""

from . import clip, taesd, unet, vae
from .extras import IGNORED, MARKERS, UNUSED
from .outgoing import Outgoing, outgoing
from .rule import Match, Rule, Rules

__all__ = [
    "IGNORED",
    "MARKERS",
    "PREFIXES",
    "RULESETS",
    "UNUSED",
    "Match",
    "Outgoing",
    "Rule",
    "Rules",
    "outgoing",
]

# Prefix of a tensor's name in a file of several parts → the part; the longest counts.
# The first text encoder is clip_l here, whichever it is: what stands behind the prefix
# of an SD 2.x or a refiner file can be told by its width alone.
PREFIXES: dict[str, str] = {
    "model.diffusion_model.": "unet",
    "diffusion_model.": "unet",
    "unet.": "unet",
    "first_stage_model.": "vae",
    "vae.": "vae",
    "tae.": "tae",
    "cond_stage_model.": "clip_l",
    "conditioner.embedders.0.": "clip_l",
    "text_encoder.": "clip_l",
    "text_encoders.clip_l.": "clip_l",
    "text_encoders.clip_h.": "clip_l",
    "clip_l.": "clip_l",
    "te.": "clip_l",
    "te1.": "clip_l",
    "cond_stage_model.1.": "clip_g",
    "conditioner.embedders.1.": "clip_g",
    "text_encoder_2.": "clip_g",
    "text_encoder.2.": "clip_g",
    "text_encoders.clip_g.": "clip_g",
    "clip_g.": "clip_g",
    "te.1.": "clip_g",
    "te2.": "clip_g",
}

_CLIP = (clip.LDM, clip.HUGGINGFACE, clip.OPENCLIP, *clip.OTHERS)

# Part → the name tables to try. A file follows one of them in each part.
RULESETS: dict[str, tuple[Rules, ...]] = {
    "unet": (unet.LDM, unet.DIFFUSERS),
    "vae": (vae.LDM, vae.DIFFUSERS),
    "tae": (taesd.DIFFUSERS, *taesd.OTHERS),
    "clip_l": _CLIP,  # CLIP-L
    "clip_h": _CLIP,  # OpenCLIP-H
    "clip_g": _CLIP,  # OpenCLIP-bigG
}
