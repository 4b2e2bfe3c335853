"""Pictures brought to another size, or a larger canvas."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

Size = tuple[int, int]  # width and height in pixels

_LANCZOS = Image.Resampling.LANCZOS


def crop(image: Image.Image, size: Size) -> Image.Image:
    """The largest part of the size's shape, from the middle."""
    return ImageOps.fit(image, size, _LANCZOS)


def fit(image: Image.Image, size: Size) -> Image.Image:
    """All of it, in the middle; the borders repeat its edges, as A1111 fills them."""
    inside = ImageOps.contain(image, size, _LANCZOS)
    left, top = ((a - b) // 2 for a, b in zip(size, inside.size, strict=True))
    right, bottom = size[0] - inside.width - left, size[1] - inside.height - top
    return padded(inside, (left, top, right, bottom))


def stretch(image: Image.Image, size: Size) -> Image.Image:
    """All of it, out of shape."""
    return image.resize(size, _LANCZOS)


# A picture and a size → the picture of that size.
RESIZE_MODES: dict[str, Callable[[Image.Image, Size], Image.Image]] = {
    "crop": crop,
    "fit": fit,
    "stretch": stretch,
}


def resized(image: Image.Image, size: Size, mode: str) -> Image.Image:
    """The picture itself if it has the size, else as RESIZE_MODES says."""
    return image if image.size == size else RESIZE_MODES[mode](image, size)


def padded(image: Image.Image, sides: tuple[int, int, int, int]) -> Image.Image:
    """A picture with its edges repeated outwards: left, top, right, bottom pixels."""
    left, top, right, bottom = sides
    pixels = np.asarray(image)
    depth = [(0, 0)] * (pixels.ndim - 2)
    return Image.fromarray(
        np.pad(pixels, [(top, bottom), (left, right), *depth], "edge")
    )
