"""Pictures to start from: files, data URIs and arrays → 8-bit RGB in sRGB."""

import base64
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image, ImageCms, ImageOps

from .errors import ConfigError, SDError

log = logging.getLogger(__name__)

# A file, a data URI of one, a picture, or its pixels: (H, W), (H, W, 1), (H, W, 3) or
# (H, W, 4), of bool, uint8, or floats from 0 to 1.
ImageLike = str | Path | Image.Image | np.ndarray | mx.array

# What is opened. Pillow knows more, some of which starts other programs.
_KINDS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
_URI = re.compile(r"data:[^,]{0,200};base64,")
_PNG_URI = "data:image/png;base64,"
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of a profile → Pillow's
# What Pillow raises for files that are broken, or made to break it.
_BROKEN = (
    *(OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError),
    *(OverflowError, MemoryError, AttributeError, NotImplementedError),
    *(ArithmeticError, RuntimeError, Image.DecompressionBombError),
)


def settled(name: str, image: ImageLike | None) -> str | Image.Image | None:
    """A path as text; anything else as the picture that open_picture makes of it.

    Raises: ConfigError or SDError for what is no picture.
    """
    if isinstance(image, str | Path) and not _URI.match(str(image)):
        return str(image)
    return None if image is None else open_picture(name, image)


def uri(image: ImageLike | None) -> str | None:
    """What `settled` gave, as text that it gives the same for."""
    if not isinstance(image, Image.Image):
        return None if image is None else str(image)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return _PNG_URI + base64.b64encode(file.getvalue()).decode()


def size_of_picture(name: str, image: ImageLike) -> tuple[int, int]:
    """Width and height that open_picture's result has. Raises: as that does."""
    return _upright(name, image)[1].size


def open_picture(name: str, image: ImageLike) -> Image.Image:
    """A picture as RGB of 8 bits in sRGB, turned as its EXIF says; nothing else of it.

    What is transparent is white, as on paper; in a mask, where white says something,
    it is black. 16 bits are rounded to 8. A profile that cannot be read is left out
    with a warning.

    Args:
        name: the field that it is for, such as "init_img".

    Raises: SDError if it cannot be read; ConfigError for an array that is no picture.
    """
    where, opened = _upright(name, image)
    profile = opened.info.get("icc_profile")
    with _readable(where):
        opaque, alpha = _split(_eight_bit(where, opened))
    result = _srgb(where, opaque, profile)
    if alpha is not None:
        colour = "black" if name == "mask" else "white"
        log.info("%s: has transparent parts, which are taken as %s", where, colour)
        ground = Image.new("RGB", result.size, colour)
        ground.paste(result, mask=alpha)
        result = ground
    result.info = {}
    return result


def _upright(name: str, image: ImageLike) -> tuple[str, Image.Image]:
    """What to call it in messages, and the picture, read whole and turned."""
    if isinstance(image, np.ndarray | mx.array):
        image = _of_pixels(name, image)
    if isinstance(image, Image.Image):
        with _readable(name):
            return name, ImageOps.exif_transpose(image)
    text = str(image)
    found = _URI.match(text)
    where = name if found else text
    file = _decoded(name, text[found.end() :]) if found else text
    Image.init()
    kinds = [kind for kind in _KINDS if kind in Image.OPEN]
    with _readable(where), Image.open(file, formats=kinds) as opened:
        return where, ImageOps.exif_transpose(opened)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Raises: SDError in one line for whatever Pillow finds wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of details that are not read here
            yield
    except Image.UnidentifiedImageError as error:
        raise SDError(
            f"{where}: is no picture of a kind that is read here "
            f"({', '.join(_KINDS)}), or a damaged one"
        ) from error
    except _BROKEN as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise SDError(
            f"{where}: not a picture that can be read: {reason:.200}"
        ) from error


def _decoded(name: str, text: str) -> io.BytesIO:
    try:
        return io.BytesIO(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise ConfigError(f"{name}: a data URI that is no base64: {error}") from error


def _of_pixels(name: str, image: np.ndarray | mx.array) -> Image.Image:
    if isinstance(image, mx.array) and mx.issubdtype(image.dtype, mx.floating):
        image = image.astype(mx.float32)  # numpy has no bfloat16
    pixels = np.array(image)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    shape = list(pixels.shape)
    right = pixels.ndim == 2 or pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if not right or not pixels.size or pixels.dtype.kind not in "buf":
        raise ConfigError(
            f"{name}: {pixels.dtype} of shape {shape} is no picture; give (H, W), "
            "(H, W, 3) or (H, W, 4), of bool, uint8 or floats from 0 to 1"
        )
    if pixels.dtype.kind == "f" and not ((pixels >= 0) & (pixels <= 1)).all():
        raise ConfigError(f"{name}: pixels of float type must be from 0 to 1")
    if pixels.dtype.kind != "u":
        pixels = np.floor(pixels * 255.0 + 0.5).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ConfigError(f"{name}: pixels are {pixels.dtype}; give uint8 or floats")
    return Image.fromarray(pixels)


def _eight_bit(where: str, image: Image.Image) -> Image.Image:
    """Grey of 16 bits, which Pillow would clip, and of floats, as 8-bit grey."""
    if not image.mode.startswith(("I", "F")):
        return image
    pixels = np.asarray(image).astype(np.float64)
    most = 1.0 if image.mode == "F" else 65535.0
    if not ((pixels >= 0) & (pixels <= most)).all():
        raise SDError(
            f"{where}: its pixels are not all from 0 to {most:g}; save it with 8 or 16 "
            "bits for each colour"
        )
    return Image.fromarray(np.floor(pixels * (255 / most) + 0.5).astype(np.uint8))


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours, of mode L, RGB or CMYK as they were; and how opaque, None: all is."""
    grey = image.mode in ("1", "L", "LA", "La")
    plain = "L" if grey else "CMYK" if image.mode == "CMYK" else "RGB"
    if "transparency" not in image.info and image.mode[-1] not in "Aa":
        return image.convert(plain), None
    whole = image.convert("LA" if grey else "RGBA")
    alpha = whole.getchannel("A")
    return whole.convert(plain), None if alpha.getextrema() == (255, 255) else alpha


def _srgb(where: str, image: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB or CMYK in its profile's colours → RGB in sRGB."""
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES[source.profile.xcolor_space.strip()]
        if mode != image.mode and (mode, image.mode) != ("RGB", "L"):
            raise ValueError(f"it is for {mode} pixels, not {image.mode}")
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image.convert("RGB")  # so that not a bit changes
        target = ImageCms.createProfile("sRGB")
        changed = ImageCms.profileToProfile(
            image.convert(mode), source, target, outputMode="RGB"
        )
        assert changed is not None, "it is not done in place"
        return changed
    except (ImageCms.PyCMSError, *_BROKEN) as error:
        log.warning(
            "%s: its colour profile is not used, so colours may be off: %.100s",
            *(where, error),
        )
        return image.convert("RGB")
