"""Narrow models of every family, as diffusers folders, made from tensor names.

Text encoders are as wide as the family's, so that its kind is recognised, and have two
or three layers; UNets have their family's blocks, of 64 channels at the finest level.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import seeded
from safetensors.numpy import save_file
from test_tokenizer import write_small_tokenizer

GOLDEN = Path(__file__).parent / "golden"
PROMPT, NEGATIVE = "a red house and a green tree", "rain"
WIDTH, HEIGHT, STEPS, CFG, SEED = 96, 64, 10, 5.0, 42
# What golden/make_variants.py has besides.
LCM_STEPS, SWITCH, SIGMAS = 4, 0.8, (0.01, 60.0)
ORIGINAL, CROP, TARGET = (200, 300), (16, 24), (80, 120)  # (height, width), (top, left)

Shapes = dict[str, dict[str, list[int]]]  # folder → name → shape


def shapes(kind: str, file: str | None = None) -> Shapes:
    """What golden/make_families.py, or another of them, found models to hold."""
    file = file or ("variants" if "LCM" in kind else "families")
    listed = gzip.decompress((GOLDEN / f"{file}.json.gz").read_bytes())
    return json.loads(listed)[kind]


def weights(folder: str, of_part: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Exact in float16."""
    return {
        name: seeded.tensor(f"{folder}.{name}", tuple(shape), np.float16)
        for name, shape in of_part.items()
    }


def write_folder(path: Path, parts: Shapes, prediction: str = "epsilon") -> Path:
    """A diffusers folder of a model whose tokenizers are small."""
    for folder, of_part in parts.items():
        (path / folder).mkdir(parents=True)
        stem = "model" if folder.startswith("text") else "diffusion_pytorch_model"
        tensors = weights(folder, of_part)
        save_file(tensors, path / folder / f"{stem}.safetensors", {"format": "pt"})
        if folder.startswith("text"):
            write_small_tokenizer(path / folder.replace("text_encoder", "tokenizer"))
    (path / "scheduler").mkdir()
    told = json.dumps({"prediction_type": prediction})
    (path / "scheduler/scheduler_config.json").write_text(told)
    return path
