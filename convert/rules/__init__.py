"""Which foreign tensor is which parameter of ours: prefixes, name tables, buffers."""

import re

from . import clip, unet, vae
from .rule import Rule, Rules

__all__ = ["IGNORED", "PREFIXES", "RULESETS", "Rule", "Rules"]

# Part of a model → the prefixes that its tensors have in files of several parts:
# LDM's, then those we give to the parts of a diffusers folder.
PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": ("model.diffusion_model.", "unet."),
    "vae": ("first_stage_model.", "vae."),
    "clip_l": ("cond_stage_model.transformer.", "text_encoder."),
}

# Part → the name tables to try; each tensor fits one rule of one of them.
RULESETS: dict[str, tuple[Rules, ...]] = {
    "unet": (unet.LDM, unet.DIFFUSERS),
    "vae": (vae.LDM, vae.DIFFUSERS),
    "clip_l": (clip.HUGGINGFACE,),
}

# Tensors that training or other programs leave in a file and that a picture does not
# need, with the reason.
IGNORED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"model_ema\..*", "moving average kept for training"),
        (r"(betas|alphas_cumprod|alphas_cumprod_prev)", "noise schedule"),
        (r"(sqrt|log|posterior)_\w+", "noise schedule"),
        (r".*\bposition_ids", "position numbers"),
        (
            r"cond_stage_model\.(.*\.)?(logit_scale|text_projection(\.weight)?)",
            "unused",
        ),
        (r"((first_stage_model|vae)\.)?loss\..*", "discriminator kept for training"),
        (r"(first_stage_model|vae)\.model_ema\..*", "moving average kept for training"),
    )
)
