"""A picture to start from, a mask, and what is asked of both, for golden pictures."""

from dataclasses import dataclass

import numpy as np

PROMPT, NEGATIVE = "a red house and a green tree under a night sky", "blurry"
# Three steps run, of the last levels of four: ⌊4·0.5⌋ + 1. Diffusers runs one fewer
# for a strength, so that it needs 0.75 for as many.
STEPS, STRENGTH, THEIR_STRENGTH = 4, 0.5, 0.75
CFG, SEED = 7.0, 42


@dataclass(frozen=True)
class Case:
    channels: int  # that the UNet takes: 4, or 9 to inpaint, or 8 to edit
    masked: bool
    image_cfg: float | None = None


def picture(width: int, height: int) -> np.ndarray:
    """(H, W, 3) uint8: slopes of colour, a disc and a bar."""
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    colours = np.stack([255 * x, 200 * y, 255 * (1 - x) * (1 - y)], axis=-1)
    colours[(x - 0.3) ** 2 + (y - 0.4) ** 2 < 0.04] = 240, 200, 40
    colours[(abs(x - 0.75) < 0.06) & (y > 0.3)] = 30, 90, 60
    return np.floor(colours + 0.5).astype(np.uint8)


def mask(width: int, height: int) -> np.ndarray:
    """(H, W) uint8: a white block on the grid of latent pixels, as all resize alike."""
    white = np.zeros((height, width), np.uint8)
    white[height // 4 // 8 * 8 : height * 3 // 4 // 8 * 8, 16 : width // 2 // 8 * 8] = (
        255
    )
    return white


# Narrow models: name → family, task, what the UNet takes.
SMALL = {
    "img2img": ("SD 1.x", "img2img", Case(4, False)),
    "inpaint": ("SD 1.x", "inpaint", Case(4, True)),
    "inpaint_model": ("SD 1.x", "inpaint", Case(9, True)),
    "edit": ("SD 1.x", "edit", Case(8, False, image_cfg=1.5)),
    "xl_inpaint_model": ("SDXL", "inpaint", Case(9, True)),
    "xl_edit": ("SDXL", "edit", Case(8, False, image_cfg=1.5)),
    "cosxl_edit": ("SDXL", "edit", Case(8, False, image_cfg=1.5)),
}
# CosXL's scheduler, in short; by default its levels fall exponentially.
EDM = {
    "_class_name": "EDMEulerScheduler",
    "prediction_type": "v_prediction",
    "sigma_min": 0.01,
    "sigma_max": 60.0,
    "sigma_data": 1.0,
}
