"""What a model's parts were filled with, in little space."""

import hashlib

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_sd.source import Source


def digests(source: Source, parts=("unet", "vae", "clip_l")) -> dict[str, str]:
    """Our name of each weight → a hash of its float32 values and shape."""
    found = {}
    for part in parts:
        for name, array in tree_flatten(source.build(part, mx.float32).parameters()):
            data = np.array(array.astype(mx.float32))
            found[f"{part}.{name}"] = f"{data.shape} {hashlib.md5(data).hexdigest()}"
    return found
