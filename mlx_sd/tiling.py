"""How much of a picture is coded at a time, in the terms of stable-diffusion.cpp.

There it goes by tiles, which overlap and are blended; here by bands of rows, and the
outcome is that of one piece.
"""

import math
from dataclasses import dataclass

from .errors import ConfigError

_LEAST = 4  # latent pixels: a tile's width and height
_PIXELS = 12  # of a band, for each latent pixel of a tile: 0.3 GB by default


@dataclass(frozen=True)
class Tiling:
    """The tiles whose pixels a band has.

    Args:
        size: width and height of a tile in latent pixels, at least 4.
        relative: the same as a share of the picture's width and height, above 0 and up
            to 1, or the number of tiles along them, above 1; None: by `size`.
        overlap: 0 to 0.5 of a tile. Bands need none: it counts where tiles are given by
            their number, as more of them that overlap are larger.

    Raises: ConfigError if one is out of range.
    """

    size: tuple[int, int] = (32, 32)
    relative: tuple[float, float] | None = None
    overlap: float = 0.5

    def __post_init__(self) -> None:
        width, height = self.size
        if min(self.size) < _LEAST:
            raise ConfigError(
                f"tile size {width}x{height}: at least {_LEAST} latent pixels each way"
            )
        if self.relative and not all(0 < f < math.inf for f in self.relative):
            across, down = self.relative
            raise ConfigError(f"relative tile size {across}x{down}: must be above 0")
        if not 0 <= self.overlap <= 0.5:
            raise ConfigError(f"tile overlap {self.overlap}: must be from 0 to 0.5")

    def pixels(self, height: int, width: int) -> int:
        """In a band, where the latent's height and width are these."""
        down, across = self.tile(height, width)
        return _PIXELS * down * across

    def tile(self, height: int, width: int) -> tuple[int, int]:
        """A tile's height and width in latent pixels."""
        across, down = self.size
        if self.relative is not None:
            across, down = (
                max(_LEAST, round(length * self._share(relative)))
                for length, relative in zip((width, height), self.relative, strict=True)
            )
        return min(height, down), min(width, across)

    def _share(self, relative: float) -> float:
        """Of a length; n overlapping tiles are as long as 1 + (n - 1)(1 - overlap)."""
        if relative <= 1:
            return relative
        return 1 / (relative - relative * self.overlap + self.overlap)
