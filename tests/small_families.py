"""Narrow models of every family, as diffusers folders, made from tensor names.

Text encoders are as wide as the family's, so that its kind is recognised, and have two
or three layers; UNets have their family's blocks, of 64 channels at the finest level.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import seeded
from safetensors.numpy import save_file
from test_tokenizer import write_small_tokenizer

GOLDEN = Path(__file__).parent / "golden"
PROMPT, NEGATIVE = "a red house and a green tree", "rain"
WIDTH, HEIGHT, STEPS, CFG, SEED = 96, 64, 10, 5.0, 42
# What golden/make_variants.py has besides.
LCM_STEPS, EDM_STEPS, SWITCH, SIGMAS = 4, 3, 0.8, (0.01, 60.0)
ORIGINAL, CROP, TARGET = (200, 300), (16, 24), (80, 120)  # (height, width), (top, left)


@dataclass(frozen=True)
class Case:
    """A picture that diffusers and we paint."""

    kind: str
    prediction: str = "eps"
    negative: str = NEGATIVE
    steps: int = STEPS
    cfg: float = CFG
    sampler: str = "euler"
    schedule: str = "discrete"
    zero_snr: bool = False  # trained down to a signal of zero

    @property
    def rng(self) -> str:
        """Whose noise the steps add can be that of torch alone."""
        return "cuda" if self.sampler == "euler" else "cpu"


# 10 steps from 999 to 0, and all trailing ones, are whole timesteps, where diffusers'
# interpolation and ours agree.
CASES = {
    "sd1": Case("SD 1.x"),
    "sd2": Case("SD 2.x"),
    "sd2_v": Case("SD 2.x", "v"),
    "sd_turbo": Case("SD 2.x", steps=4, cfg=1, schedule="simple"),
    "sdxl": Case("SDXL"),
    "sdxl_empty": Case("SDXL", negative=""),
    "sdxl_turbo": Case("SDXL", steps=4, cfg=1, sampler="euler_a", schedule="simple"),
    # Diffusers' first step, from 4519 to 7, leaves five digits, from 120 six. Steps and
    # guidance make more of what is lacking, so there are few, and little of it.
    "sdxl_v": Case("SDXL", "v", steps=4, cfg=1, zero_snr=True),
    "cosxl": Case("SDXL", "edm_v", steps=4, cfg=2, schedule="exponential"),
    "refiner": Case("SDXL Refiner"),
    "ssd1b": Case("SDXL (SSD1B)"),
    "vega": Case("SDXL (Vega)"),
    "bk_base": Case("SD 1.x (BK-SDM Base)"),
    "bk_small": Case("SD 1.x (BK-SDM Small)"),
    "tiny": Case("SD 1.x Tiny UNet"),
    "sdxs": Case("SDXS (512-DS)", steps=1, cfg=1, schedule="simple"),
    "bk2_base": Case("SD 2.x (BK-SDM Base)"),
    "bk2_small": Case("SD 2.x (BK-SDM Small)"),
    "tiny2": Case("SD 2.x Tiny UNet"),
    "sdxs09": Case("SDXS (09)", steps=1, cfg=1, schedule="simple"),
}
STATES = "sd1", "sd2", "sdxl", "sdxl_empty", "refiner"  # whose text states are kept

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


_TOLD = {  # prediction → what scheduler_config.json says of it
    "eps": {"prediction_type": "epsilon"},
    "v": {"prediction_type": "v_prediction"},
    "edm_v": {
        "_class_name": "EDMEulerScheduler",
        "prediction_type": "v_prediction",
        "sigma_min": 0.002,
        "sigma_max": 120.0,
        "sigma_data": 1.0,
    },
}


def write_folder(
    path: Path, parts: Shapes, prediction: str = "eps", zero_snr: bool = False
) -> Path:
    """A diffusers folder of a model whose tokenizers are small."""
    for folder, of_part in parts.items():
        (path / folder).mkdir(parents=True)
        stem = "model" if folder.startswith("text") else "diffusion_pytorch_model"
        tensors = weights(folder, of_part)
        save_file(tensors, path / folder / f"{stem}.safetensors", {"format": "pt"})
        if folder.startswith("text"):
            write_small_tokenizer(path / folder.replace("text_encoder", "tokenizer"))
    (path / "scheduler").mkdir()
    told = json.dumps({**_TOLD[prediction], "rescale_betas_zero_snr": zero_snr})
    (path / "scheduler/scheduler_config.json").write_text(told)
    return path
