"""The picture that a request starts from, where to repaint it, and the way back."""

import logging
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from .errors import ConfigError
from .reading import open_picture, size_of_picture
from .request import Request
from .resize import Size, crop, fit, padded, resized

log = logging.getLogger(__name__)

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class PasteBack:
    """Where a painted picture goes."""

    whole: Image.Image  # RGB, of any size
    box: Box  # in it
    alpha: Image.Image  # "L", as large as `whole`: 0 where no pixel may change


@dataclass(frozen=True)
class Canvas:
    """A picture at the size to paint, and what of it to repaint."""

    picture: Image.Image  # RGB
    mask: Image.Image | None  # "L", as large, 255 is repainted; None: all of it
    paste: PasteBack | None = None  # None: what is painted is the result

    def finished(self, painted: Image.Image) -> Image.Image:
        """The result: the painted picture, or what it was cut from with it inside."""
        if self.paste is None:
            return painted
        left, top, right, bottom = self.paste.box
        size = right - left, bottom - top
        changed = self.paste.whole.copy()
        changed.paste(
            painted if painted.size == size else crop(painted, size), (left, top)
        )
        return Image.composite(changed, self.paste.whole, self.paste.alpha)


def canvas(request: Request) -> Canvas | None:
    """What a resolved request starts from; None: from noise alone.

    Raises: SDError if a picture cannot be read; ConfigError if a mask has no white.
    """
    if request.init_img is None:
        return None
    size = request.width or 0, request.height or 0
    picture, mask = open_picture("init_img", request.init_img), _mask(request)
    if request.extend is not None:
        picture, mask = _extended(picture, mask, request)
    if request.inpaint_full_res and mask is not None:
        return _region(picture, mask, size, request)
    picture = resized(picture, size, request.resize_mode)
    if mask is None:
        return Canvas(picture, None)
    mask = _hard(resized(mask, size, request.resize_mode))
    if not (request.paste_back or request.mask_blur):
        return Canvas(picture, mask)
    return Canvas(
        picture, mask, PasteBack(picture, (0, 0, *size), _blurred(mask, request))
    )


def reference(request: Request) -> Image.Image | None:
    """The picture to edit, RGB at a resolved request's size, if one is given."""
    if request.ref_image is None:
        return None
    size = request.width or 0, request.height or 0
    picture = open_picture("ref_image", request.ref_image)
    return resized(picture, size, request.resize_mode)


def size_of(request: Request, grain: int) -> Size | None:
    """Width and height to paint that a request's pictures suggest, of whole grains.

    A picture to start from comes before one to edit. None: there is none, or but a part
    of it is painted.

    Raises: SDError if one cannot be read; ConfigError if it is too small, or if the
        extended one is not of whole grains, unless the request says a size.
    """
    named = "ref_image" if request.init_img is None else "init_img"
    image = getattr(request, named)
    if image is None:
        return None
    width, height = size_of_picture(named, image)
    if request.inpaint_full_res:
        return None
    sized = request.width is not None and request.height is not None
    if request.extend is not None:
        left, top, right, bottom = request.extend
        size = width + left + right, height + top + bottom
        short = [-side % grain for side in size]
        if any(short) and not sized:
            sides = left, top, right + short[0], bottom + short[1]
            raise ConfigError(
                f"extend {','.join(map(str, request.extend))}: makes {width}x{height} "
                f"pixels {size[0]}x{size[1]}, which are no multiples of {grain}; give "
                f"{','.join(map(str, sides))}"
            )
        return size
    size = width // grain * grain, height // grain * grain
    if not all(size):
        raise ConfigError(
            f"{named}: of {width}x{height} pixels is smaller than {grain}x{grain}"
        )
    if size != (width, height) and not sized:
        log.info(
            "%s of %dx%d pixels is painted at %dx%d, multiples of %d",
            *(named, width, height, *size, grain),
        )
    return size


def _mask(request: Request) -> Image.Image | None:
    """Mode L, of its own size; white is repainted."""
    if request.mask is None:
        return None
    mask = open_picture("mask", request.mask).convert("L")
    return ImageOps.invert(mask) if request.invert_mask else mask


def _hard(mask: Image.Image) -> Image.Image:
    """Lighter than middle grey is white, the rest black, as in stable-diffusion.cpp.

    Raises: ConfigError if nothing is white.
    """
    mask = mask.point([0] * 128 + [255] * 128)
    if mask.getbbox() is None:
        raise ConfigError(
            "mask: nothing of it is white, so nothing would be repainted; invert_mask "
            "repaints what is black"
        )
    return mask


def _blurred(mask: Image.Image, request: Request) -> Image.Image:
    blur = request.mask_blur
    return mask.filter(ImageFilter.GaussianBlur(blur)) if blur else mask


def _extended(
    picture: Image.Image, mask: Image.Image | None, request: Request
) -> tuple[Image.Image, Image.Image]:
    """The larger canvas, filled with the picture's edges, and the mask of what is new.

    The mask reaches two blurs into the picture, so that its soft edge shows nothing of
    the filling.
    """
    assert request.extend is not None
    inner = Image.new("L", picture.size)
    if mask is not None:
        inner = resized(mask, picture.size, request.resize_mode)
    reach = round(2 * request.mask_blur)
    left, top, right, bottom = request.extend
    columns = _kept(left, picture.width, right, reach)
    rows = _kept(top, picture.height, bottom, reach)
    white = np.full((picture.height, picture.width), 255, np.uint8)
    white[rows, columns] = np.asarray(inner)[rows, columns]
    white = np.pad(white, [(top, bottom), (left, right)], constant_values=255)
    return padded(picture, (left, top, right, bottom)), Image.fromarray(white)


def _kept(before: int, span: int, after: int, reach: int) -> slice:
    end = span - reach if after else span
    return slice(reach if before else 0, max(end, 0))


def _region(
    picture: Image.Image, mask: Image.Image, size: Size, request: Request
) -> Canvas:
    """What surrounds the mask's white, at the size to paint."""
    mask = _hard(resized(mask, picture.size, request.resize_mode))
    alpha = _blurred(mask, request)
    box = alpha.getbbox()
    assert box is not None, "_hard left some white"
    box = _surroundings(box, request.inpaint_full_res_padding, picture.size, size)
    hole = _hard(fit(mask.crop(box), size))
    return Canvas(fit(picture.crop(box), size), hole, PasteBack(picture, box, alpha))


def _surroundings(box: Box, padding: int, whole: Size, size: Size) -> Box:
    """The box with a padding, grown to the shape of `size` as far as `whole` goes."""
    low = [max(box[i] - padding, 0) for i in (0, 1)]
    high = [min(box[i + 2] + padding, whole[i]) for i in (0, 1)]
    scale = max((high[i] - low[i]) / size[i] for i in (0, 1))
    for i in (0, 1):
        span = min(max(round(scale * size[i]), high[i] - low[i]), whole[i])
        centred = low[i] - (span - (high[i] - low[i])) // 2
        low[i] = min(max(centred, 0), whole[i] - span)
        high[i] = low[i] + span
    return low[0], low[1], high[0], high[1]
