"""Weights in 8-bit floats with a scale beside them, as ComfyUI's scaled fp8 files are.

Source: ComfyUI's QUANTIZATION.md; value = stored value x scale. Older files say
layer.scale_weight, newer ones layer.weight_scale. Scales of activations
(scale_input, input_scale) and the marker scaled_fp8 change no weight, so they stay
tensors of their own.
"""

from collections.abc import Mapping
from dataclasses import replace

from .entry import Entry

_ENDINGS = (".scale_weight", ".weight_scale")


def fold_scales(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Give each scale to its weight; a scale without a weight stays where it is."""
    folded = dict(entries)
    for name, scale in entries.items():
        layer, dot, ending = name.rpartition(".")
        weight = folded.get(f"{layer}.weight")
        if dot + ending in _ENDINGS and weight is not None and weight.scale is None:
            folded[f"{layer}.weight"] = replace(weight, scale=scale)
            del folded[name]
    return folded
