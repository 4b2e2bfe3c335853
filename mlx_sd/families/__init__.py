"""Model families: which parts they have and how a picture is made from them."""

from .base import Conditioning, Family, LatentFormat, PictureSizes
from .sd1 import SD1
from .sd2 import SD2
from .sdxl import REFINER, SDXL

__all__ = ["FAMILIES", "Conditioning", "Family", "LatentFormat", "PictureSizes"]

FAMILIES: dict[str, Family] = {
    "sd1": SD1,
    "sd2": SD2,
    "sdxl": SDXL,
    "sdxl_refiner": REFINER,
}
