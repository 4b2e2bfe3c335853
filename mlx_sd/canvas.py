"""The picture that a request starts from, and where it is to be repainted."""

from dataclasses import dataclass

from PIL import Image

from .errors import ConfigError
from .image import ImageLike, open_picture
from .request import Request


@dataclass(frozen=True)
class Canvas:
    """A picture at the size to paint, and what of it to repaint."""

    picture: Image.Image  # RGB
    mask: Image.Image | None  # "L", as large; white is repainted; None: all of it


def canvas(request: Request) -> Canvas | None:
    """What a resolved request starts from; None: from noise alone.

    Raises: SDError if a picture cannot be read.
    """
    if request.init_img is None:
        return None
    mask = None
    if request.mask is not None:
        mask = fitted(request.mask, request).convert("L")
    return Canvas(fitted(request.init_img, request), mask)


def fitted(image: ImageLike, request: Request) -> Image.Image:
    """A picture at a resolved request's size, RGB."""
    size = request.width or 0, request.height or 0
    picture = open_picture(image)
    if picture.size == size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS)


def size_of(request: Request, grain: int) -> tuple[int, int] | None:
    """Width and height that a request's pictures have, in whole grains of pixels.

    None: it has none. Raises: SDError, ConfigError if one cannot be read or is too
    small.
    """
    image = request.init_img if request.init_img is not None else request.ref_image
    if image is None:
        return None
    width, height = (side // grain * grain for side in open_picture(image).size)
    if not width or not height:
        raise ConfigError(f"a picture to start from is smaller than {grain} pixels")
    return width, height
