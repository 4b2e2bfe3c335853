"""Pictures: arrays ↔ PIL, and files with their settings that are whole or absent."""

import logging
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np
from PIL import Image, PngImagePlugin

from .errors import ConfigError, SDError

log = logging.getLogger(__name__)

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".webp": "WEBP",
}
JPEG_EXIF = 65_533  # bytes: a segment's length is 16 bits, its own two included


def to_pixels(image: Image.Image) -> mx.array:
    """RGB → (1, H, W, 3) float32 in [-1, 1]."""
    return mx.array(np.array(image, np.float32) / 127.5 - 1)[None]


def to_pil(pixels: mx.array) -> Image.Image:
    """(H, W, 3) in [-1, 1], values beyond are clipped → 8-bit RGB.

    Raises: SDError if a value is not finite: a picture of those would be black.
    """
    x = pixels.astype(mx.float32)
    levels = mx.floor(mx.clip(x * 0.5 + 0.5, 0, 1) * 255 + 0.5).astype(mx.uint8)
    finite = mx.isfinite(x).all()
    mx.eval(finite, levels)
    if not finite:
        raise SDError(
            "the decoded picture holds values that are not numbers; "
            "try again with --dtype f32"
        )
    return Image.fromarray(np.array(levels))


def refuse_folder(path: Path) -> None:
    """Raises: SDError if there is a folder at `path`."""
    if os.path.isdir(path):
        raise SDError(f"{path}: is a folder; name a file, such as {path / 'out.png'}")


def check_writable(path: Path) -> None:
    """Makes the folder of a picture that is to come.

    Raises: ConfigError for another suffix than FORMATS; SDError unless a file can be
        made at `path`.
    """
    refuse_folder(path)
    _format(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            with path.open("ab"):
                pass
    except (OSError, ValueError) as error:  # the latter for a null in the name
        reason = getattr(error, "strerror", None) or error
        raise SDError(f"{path}: cannot write there: {reason}") from error


def _format(path: Path) -> str:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ConfigError(
            f"{path}: unknown kind of picture; end its name in {', '.join(FORMATS)}"
        ) from None


def save(image: Image.Image, path: Path, parameters: str | None = None) -> None:
    """Write a picture in the format of its suffix, whole or not at all.

    Args:
        path: ends in one of FORMATS; JPEG and WebP are lossy, of quality 90.
        parameters: A1111's text, put where A1111 puts it: a PNG's text chunk, the
            others' EXIF comment; None writes none. What is too long for a JPEG is left
            out with a warning, so that the picture is not lost.

    Raises: ConfigError for another suffix; SDError if the file cannot be written.
    """
    format = _format(path)
    options: dict[str, Any] = {"quality": 90}
    if format == "PNG":
        options = {"pnginfo": _text_chunk(parameters)}
    elif parameters is not None:
        exif = _user_comment(parameters)
        if format == "WEBP" or len(exif) <= JPEG_EXIF:
            options["exif"] = exif
        else:
            log.warning(
                "%s: written without its settings, which are too long for a JPEG "
                "(%d bytes, of at most %d); .png and .webp hold any",
                *(path, len(exif), JPEG_EXIF),
            )
    try:
        with whole_file(path) as file:
            image.save(file, format=format, **options)
    except (OSError, ValueError) as error:  # the latter for sides that WebP cannot have
        reason = getattr(error, "strerror", None) or error
        raise SDError(f"{path}: cannot write: {reason}") from error


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place at `path` once all went well.

    Raises: OSError.
    """
    handle, name = tempfile.mkstemp(
        prefix=f".{path.stem}-", suffix=".part", dir=path.parent
    )
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's own mode is private
        os.replace(name, path)
    except BaseException:  # Ctrl-C too must leave nothing half-written
        os.unlink(name)
        raise


def _text_chunk(parameters: str | None) -> PngImagePlugin.PngInfo:
    """A1111's: tEXt, or iTXt where that is not read back as it was.

    Others, such as stable-diffusion.cpp, write UTF-8 into tEXt, so that a reader may
    take Latin-1 for UTF-8 if it happens to be valid.
    """
    info = PngImagePlugin.PngInfo()
    if parameters is None:
        return info
    try:
        plain = parameters.isascii() or not _is_utf8(parameters.encode("latin-1"))
    except UnicodeEncodeError:
        plain = False
    add = info.add_text if plain else info.add_itxt
    add("parameters", parameters)
    return info


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _user_comment(text: str) -> bytes:
    """An EXIF block of one tag, the comment, in UTF-16 as A1111 writes it.

    Two directories of one entry each, (tag, type, count, value or offset): the first
    points at the second, where tag 0x9286 is the comment. Big-endian, as is the text.

    Source: EXIF 2.32 (CIPA DC-008), sections 4.6.2 and 4.6.5.
    """
    comment = b"UNICODE\0" + text.encode("utf-16-be")
    pointer = struct.pack(">HHHIII", 1, 0x8769, 4, 1, 26, 0)
    entry = struct.pack(">HHHIII", 1, 0x9286, 7, len(comment), 44, 0)
    return b"Exif\0\0" + b"MM\0\x2a" + struct.pack(">I", 8) + pointer + entry + comment
