"""Which kind of model a UNet makes, and what users call it."""

from dataclasses import dataclass

from ..models.unet import UNetConfig

# Base → the parts that a whole model has.
PARTS: dict[str, tuple[str, ...]] = {
    "sd1": ("unet", "vae", "clip_l"),
    "sd2": ("unet", "vae", "clip_h"),
    "sdxl": ("unet", "vae", "clip_l", "clip_g"),
    "sdxl_refiner": ("unet", "vae", "clip_g"),
}

# (base, variant) → the name that stable-diffusion.cpp prints, where it knows the kind.
_NAMES: dict[tuple[str, str], str] = {
    ("sd1", ""): "SD 1.x",
    ("sd1", "bk_base"): "SD 1.x (BK-SDM Base)",
    ("sd1", "bk_small"): "SD 1.x (BK-SDM Small)",
    ("sd1", "tiny"): "SD 1.x Tiny UNet",
    ("sd1", "sdxs"): "SDXS (512-DS)",
    ("sd2", ""): "SD 2.x",
    ("sd2", "bk_base"): "SD 2.x (BK-SDM Base)",
    ("sd2", "bk_small"): "SD 2.x (BK-SDM Small)",
    ("sd2", "tiny"): "SD 2.x Tiny UNet",
    ("sd2", "sdxs"): "SDXS (09)",
    ("sdxl", ""): "SDXL",
    ("sdxl", "ssd1b"): "SDXL (SSD1B)",
    ("sdxl", "vega"): "SDXL (Vega)",
    ("sdxl_refiner", ""): "SDXL Refiner",
}
_CONTEXTS = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl_refiner"}
_TASKS = {4: "", 8: "edit", 9: "inpaint"}  # by the channels that the UNet takes
_TASK_NAMES = {"": "", "edit": " Instruct-Pix2Pix", "inpaint": " Inpaint"}

_TINY = {4: "TAESD or TAESDXL", 16: "TAESD3 or TAEF1", 32: "TAEF2"}  # by latents


@dataclass(frozen=True)
class Kind:
    name: str  # as users know it
    base: str  # a key of PARTS: how prompts, latents and noise are dealt with
    variant: str  # another UNet, mostly smaller: "tiny", "vega", …; "": the base's own
    task: str  # "": text to image; "inpaint", "edit"; else "other"

    @property
    def parts(self) -> tuple[str, ...]:
        return PARTS[self.base]

    @property
    def texts(self) -> tuple[str, ...]:
        """Its text encoders, in the order in which their states are joined."""
        return tuple(part for part in self.parts if part.startswith("clip"))


def kind(unet: UNetConfig) -> Kind:
    base = base_of(unet.context_width, unet.vector_width, unet.linear_projections)
    variant, task = _variant(unet, base), _TASKS.get(unet.in_channels, "other")
    if (base, variant, task) == ("sd1", "", "edit"):
        return Kind("Instruct-Pix2Pix", base, variant, task)
    known = _NAMES.get((base, variant), f"{_NAMES[base, '']} (another UNet)")
    more = _TASK_NAMES.get(task, f" ({unet.in_channels} channels)")
    return Kind(known + more, base, variant, task)


def base_of(context_width: int, vector_width: int | None, linear: bool) -> str:
    """The family of a UNet, by the width of its text states.

    If that is of no known encoder: by whether the UNet takes the picture's size too,
    and by whether the projections around its transformers are linear.
    """
    if context_width in _CONTEXTS:
        return _CONTEXTS[context_width]
    if vector_width is not None:
        return "sdxl"
    return "sd2" if linear else "sd1"


def _variant(unet: UNetConfig, base: str) -> str:
    if (unet.vector_width is not None) != base.startswith("sdxl"):
        return "other"
    if base in ("sd1", "sd2"):
        return _small_sd(unet)
    if base == "sdxl" and unet.mid == (0,):
        return "ssd1b" if unet.up[1:] and max(unet.up[1], default=0) > 1 else "vega"
    return "" if len(unet.mid) == 2 and len(unet.down[0]) == 2 else "other"


def _small_sd(unet: UNetConfig) -> str:
    """Distilled UNets have one block on the way down and two on the way up."""
    if len(unet.down[0]) > 1:
        return "" if unet.mid else "other"
    if unet.mid:
        return "bk_base"
    if any(unet.only_cross) or not unet.down[0][0]:
        return "sdxs"
    return "tiny" if len(unet.widths) == 3 else "bk_small"


def tiny(latent_channels: int) -> str:
    """What users call a tiny autoencoder, as far as its shapes tell."""
    return _TINY.get(latent_channels, "tiny autoencoder")
