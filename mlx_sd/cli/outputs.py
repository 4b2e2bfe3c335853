"""Where pictures go: names of files, as stable-diffusion.cpp makes them."""

import re
from pathlib import Path

from ..errors import ConfigError
from ..image import FORMATS, refuse_folder

_PLACE = re.compile(r"%(0?)(\d*)d")


def numbered(output: Path, count: int, begin: int = 0) -> list[Path]:
    """Names of `count` pictures.

    "out_%03d.png" → out_000.png …; without a place for the number several become
    out_0.png, out_1.png …, and one keeps its name. A name without a picture's suffix
    gets ".png".

    Raises: ConfigError for two places in a name, or one that is no %d or %03d; SDError
        for a folder.
    """
    if output.suffix.lower() not in FORMATS:
        refuse_folder(output)
        output = output.with_name(output.name + ".png")
    places = output.name.count("%")
    numbers = range(begin, begin + count)
    if not places:
        if count == 1:
            return [output]
        return [output.with_stem(f"{output.stem}_{i}") for i in numbers]
    if places > 1 or not (place := _PLACE.search(output.name)):
        raise ConfigError(
            f"{output}: wants one %d, or %03d, where the number of a picture goes"
        )
    fill, width = place[1] or " ", int(place[2] or 0)
    if width > 20:
        raise ConfigError(f"{output}: numbers of {width} digits are too wide")
    return [
        output.with_name(output.name.replace(place[0], str(i).rjust(width, fill), 1))
        for i in numbers
    ]
