"""Pictures: arrays ↔ PIL, the text in a PNG, and files that are whole or absent."""

import os
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image, PngImagePlugin

from .errors import SDError


def to_pil(pixels: mx.array) -> Image.Image:
    """(H, W, 3) in [-1, 1], values beyond are clipped → 8-bit RGB.

    Raises: SDError if a value is not finite: a picture of those would be black.
    """
    x = np.array(pixels.astype(mx.float32))
    if not np.isfinite(x).all():
        raise SDError(
            "the decoded picture holds values that are not numbers; "
            "try again with --dtype f32"
        )
    return Image.fromarray(
        np.floor(np.clip(x * 0.5 + 0.5, 0, 1) * 255 + 0.5).astype(np.uint8)
    )


def check_writable(path: Path) -> None:
    """Raises: SDError unless a file can be made at `path`; makes its folder."""
    if path.is_dir():
        raise SDError(f"{path}: is a folder; name a file, such as {path / 'out.png'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            with path.open("ab"):
                pass
    except OSError as error:
        raise SDError(f"{path}: cannot write there: {error.strerror}") from error


def save_png(image: Image.Image, path: Path, parameters: str | None = None) -> None:
    """Write a PNG, whole or not at all, with A1111's `parameters` text in it.

    Raises: SDError if the file cannot be written.
    """
    info = PngImagePlugin.PngInfo()
    if parameters is not None:
        try:
            parameters.encode("latin-1")
            info.add_text("parameters", parameters)
        except UnicodeEncodeError:
            info.add_itxt("parameters", parameters)
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=".part", dir=path.parent
        )
        try:
            with os.fdopen(handle, "wb") as file:
                image.save(file, format="PNG", pnginfo=info)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)  # mkstemp's own mode is private
            os.replace(name, path)
        except BaseException:  # Ctrl-C too must leave nothing half-written
            os.unlink(name)
            raise
    except OSError as error:
        raise SDError(f"{path}: cannot write: {error.strerror}") from error
