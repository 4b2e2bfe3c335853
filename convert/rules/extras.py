"""Tensors that are in real files and are no parameters, and what they mean."""

import re
from collections.abc import Iterable

Patterns = tuple[tuple[re.Pattern[str], str], ...]


def _patterns(rows: Iterable[tuple[str, str]]) -> Patterns:
    return tuple((re.compile(pattern), reason) for pattern, reason in rows)


# Beside weights in 8-bit floats; their own scales are read with them.
_SCALES = (
    (r"(.*\.)?(scale_input|input_scale)", "scale of what a layer takes"),
    (r"(.*\.)?(scaled_fp8|comfy_quant)", "mark of scaled weights"),
)

# Part, or "" for what has no part's prefix → tensors that a picture does not need, by
# their name behind the prefix, with the reason.
IGNORED: dict[str, Patterns] = {
    part: _patterns(rows)
    for part, rows in {
        "": (
            (r"model_ema\..*", "moving average kept for training"),
            (r"(betas|alphas_cumprod_prev|logvar|lvlb_weights)", "noise schedule"),
            (r"(sqrt|log|posterior)_\w+", "noise schedule"),
            (r"denoiser\.\w*sigmas", "noise schedule"),
            (r"embedding_manager\..*", "embedding kept for training"),
            (r"safety_checker\..*", "safety checker"),
            (r"control_model\..*", "ControlNet"),
            (r"conditioner\.embedders\.[2-9]\..*", "picture sizes"),
            *_SCALES,
        ),
        "unet": (
            (r"__\w+__", "trace of another program"),
            *_SCALES,
        ),
        "vae": (
            (r"loss\..*", "discriminator kept for training"),
            (r"model_ema\..*", "moving average kept for training"),
            *_SCALES,
        ),
        "tae": (
            (r"vae_(scale|shift)", "how other programs scale a VAE's latents"),
            *_SCALES,
        ),
        "clip_l": (
            (r"(.*\.)?position_ids", "position numbers"),
            (r"(.*\.)?attn_mask", "causal mask"),
            (r"(.*\.)?logit_scale", "for comparing texts with pictures"),
            (r"(.*\.)?(visual|vision_model)\..*", "picture encoder"),
            (r"(.*\.)?visual_projection\.weight", "picture encoder"),
            *_SCALES,
        ),
    }.items()
}
IGNORED["clip_g"] = IGNORED["clip_l"]

# Part → parameters of ours that its pictures do not need, where a file has them.
UNUSED: dict[str, Patterns] = {
    "clip_l": _patterns([(r"projection\.weight", "projection that no picture uses")]),
    "clip_h": _patterns(
        [
            (r"projection\.weight", "projection that no picture uses"),
            (r"layers\.23\..*", "last layer, which SD 2.x does not use"),
        ]
    ),
}

# Tensors that say how a model was trained, by their whole name.
MARKERS: dict[str, str] = {
    "v_pred": "predicts velocity",
    "ztsnr": "trained down to a signal of zero",
    "edm_vpred.sigma_max": "predicts velocity at the noise levels of EDM, up to this",
    "edm_vpred.sigma_min": "the least of these noise levels",
    "alphas_cumprod": "noise schedule",
}
