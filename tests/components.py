"""What the networks of every family are given at full size, by both sides.

golden/components.npz holds what diffusers and transformers make of it; see
golden/make_components.py. Weights are those of seeded.py, by the names and shapes of
single files in golden/names.json.gz.
"""

import gzip
import json
import math
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
NAMES = json.loads(gzip.decompress((GOLDEN / "names.json.gz").read_bytes()))

# Kind → whose UNet it has, and how many channels that takes.
UNETS = {
    **{kind: (kind, 4) for kind in NAMES["unet"]},
    "SD 1.x Inpaint": ("SD 1.x", 9),
    "Instruct-Pix2Pix": ("SD 1.x", 8),
    "SD 2.x Inpaint": ("SD 2.x", 9),
    "SDXL Inpaint": ("SDXL", 9),
    "SDXL Instruct-Pix2Pix": ("SDXL", 8),
}
TEXTS = ("clip_h", "clip_g")
SIDES = 16, 24  # of the latent: oblong, and even on all levels
TOKENS = 9
TIME = 481.25
# Height and width of the original, top and left, target or score.
NUMBERS = {2816: (768, 1024, 16, 8, 512, 640), 2560: (768, 1024, 16, 8, 6.0)}
KEPT = 8  # every 8th feature of the text states is kept
VOCABULARY = 49408


def given(name: str, *shape: int) -> np.ndarray:
    """Unit deviation, uniform, float32; a function of name and shape alone."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    unit = (bits >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    return (unit * math.sqrt(12)).astype(np.float32).reshape(shape)


def ids() -> np.ndarray:
    """(2, 77): a prompt of 11 tokens, padded with zeros, and one of 75."""
    numbers = np.abs(given("ids", 2, 77)) * 1e4
    found = numbers.astype(np.int64) % (VOCABULARY - 2)
    found[:, 0] = VOCABULARY - 2
    found[0, 12:] = 0
    found[0, 12] = found[1, 76] = VOCABULARY - 1
    return found
