"""Options of how much of a picture is decoded and encoded at a time."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..errors import ConfigError
from ..tiling import Tiling

N = TypeVar("N", int, float)

_USUAL = Tiling()
_SIZES = ("vae_tile_size", "vae_relative_tile_size", "vae_tile_overlap")


def tile_options(command: Callable[..., Any]) -> Callable[..., Any]:
    width, height = _USUAL.size
    for option in (
        click.option(
            "--vae-tile-overlap",
            type=float,
            help="Share of a tile that the next one covers too; counts for numbers of "
            f"tiles alone.  [default: {_USUAL.overlap}]",
        ),
        click.option(
            "--vae-relative-tile-size",
            metavar="[X]x[Y]",
            help="Tiles as shares of the picture up to 1, or their number above 1; "
            "before --vae-tile-size.",
        ),
        click.option(
            "--vae-tile-size",
            metavar="[X]x[Y]",
            help="Latent pixels of a tile, which has as many pixels as what is "
            f"computed at a time.  [default: {width}x{height}]",
        ),
        click.option(
            "--vae-tiling",
            is_flag=True,
            help="Decode and encode piece by piece: less memory, the same picture.",
        ),
    ):
        command = option(command)
    return command


def tiling(options: dict[str, Any]) -> Tiling | None:
    """What the options say, which are taken out of `options`; None: all at once.

    Raises: ConfigError for a size that is malformed or out of range, or without use.
    """
    wanted = options.pop("vae_tiling")
    size, relative, overlap = (options.pop(name) for name in _SIZES)
    found = Tiling(
        size=_USUAL.size if size is None else _pair("--vae-tile-size", size, int),
        relative=None
        if relative is None
        else _pair("--vae-relative-tile-size", relative, float),
        overlap=_USUAL.overlap if overlap is None else overlap,
    )
    if not wanted and found != _USUAL:
        raise ConfigError("the tiles' size says nothing without --vae-tiling; add that")
    return found if wanted else None


def _pair(option: str, text: str, number: Callable[[str], N]) -> tuple[N, N]:
    """ "48x32", or "48" for both."""
    across, _, down = text.lower().partition("x")
    try:
        return number(across), number(down or across)
    except ValueError:
        raise ConfigError(
            f"{option} {text!r:.100}: is not WIDTHxHEIGHT, such as 32x32"
        ) from None
