"""Through a network in overlapping tiles, so that memory is that of one tile.

Names and defaults are those of stable-diffusion.cpp; the network can be any function
that enlarges or reduces a map evenly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx
import numpy as np

from .errors import ConfigError

Run = Callable[[mx.array], mx.array]

_LEAST = 4  # latent pixels: a tile's width and height
_ENCODED = 2  # encoding takes less memory: tiles are twice as long


@dataclass(frozen=True)
class Tiling:
    """How large tiles are, and what share of a tile the next one covers too.

    Args:
        size: width and height of a tile in latent pixels, at least 4; less where the
            picture is smaller.
        relative: the same as a share of the picture's width and height, above 0 and up
            to 1, or the number of tiles along them, above 1; None: by `size`.
        overlap: 0 to 0.5. Tiles may overlap more, to end where the picture does.

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

    def tile(self, height: int, width: int, times: int = 1) -> tuple[int, int]:
        """A tile's height and width where the latent's are these, in latent pixels.

        Args:
            times: how many times as long to make it, but for the latent's ends.
        """
        across, down = self.size
        if self.relative is not None:
            across, down = (
                max(_LEAST, round(length * self._share(relative)))
                for length, relative in zip((width, height), self.relative, strict=True)
            )
        return min(height, times * down), min(width, times * across)

    def _share(self, relative: float) -> float:
        """Of a length; n overlapping tiles are as long as 1 + (n - 1)(1 - overlap)."""
        if relative <= 1:
            return relative
        return 1 / (relative - relative * self.overlap + self.overlap)


def tiled_decode(decode: Run, latent: mx.array, tiling: Tiling) -> mx.array:
    """decode(latent), tile by tile.

    Args:
        decode: enlarges (B, h, w, C) by a whole number.
        latent: (B, h, w, C).

    Returns: (B, s·h, s·w, D), evaluated, of the type that `decode` gives.
    """
    _, H, W, _ = latent.shape
    return _tiled(decode, latent, tiling.tile(H, W), tiling.overlap, grain=1)


def tiled_encode(
    encode: Run, image: mx.array, tiling: Tiling, reduction: int
) -> mx.array:
    """encode(image), tile by tile; tiles are twice as long as those to decode.

    Args:
        encode: reduces (B, H, W, C) to (B, H/reduction, W/reduction, D).
        image: (B, H, W, C), H and W multiples of `reduction`.

    Returns: (B, H/reduction, W/reduction, D), evaluated, of `encode`'s type.
    Raises: ConfigError if the picture's size is not a multiple.
    """
    _, H, W, _ = image.shape
    if H % reduction or W % reduction:
        raise ConfigError(
            f"a picture of {W}x{H} cannot be encoded in tiles; its width and height "
            f"must be multiples of {reduction}"
        )
    tile = tiling.tile(H // reduction, W // reduction, _ENCODED)
    return _tiled(encode, image, tile, tiling.overlap, grain=reduction)


def _tiled(
    run: Run, x: mx.array, tile: tuple[int, int], overlap: float, grain: int
) -> mx.array:
    """Tiles begin at multiples of `grain`, in which their size is counted too."""
    B, H, W, _ = x.shape
    rows = _starts(H // grain, tile[0], overlap)
    columns = _starts(W // grain, tile[1], overlap)
    out, dtype = mx.zeros(0), x.dtype
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            part = run(x[:, _span(top, tile[0], grain), _span(left, tile[1], grain)])
            scale = part.shape[1] // tile[0]
            if not out.size:
                dtype = part.dtype
                size = (H // grain * scale, W // grain * scale)
                out = mx.zeros((B, *size, part.shape[3]))
                down = _weights(rows, tile[0], scale)
                across = _weights(columns, tile[1], scale)
            blended = part * (down[i][:, None, None] * across[j][:, None])
            out[:, _span(top, tile[0], scale), _span(left, tile[1], scale)] += blended
            mx.eval(out)
    return out.astype(dtype)


def _span(start: int, length: int, scale: int) -> slice:
    return slice(start * scale, (start + length) * scale)


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin: evenly spread, the fewest that overlap so much."""
    step = tile - int(tile * overlap)
    steps = math.ceil((length - tile) / step)
    return [round(i * (length - tile) / max(steps, 1)) for i in range(steps + 1)]


def _weights(starts: list[int], tile: int, scale: int) -> list[mx.array]:
    """Each tile's share of its pixels along an axis, (tile·scale,); they add up to 1.

    It rises and falls over what a tile has in common with its neighbours, as
    S(f) = 6f⁵ - 15f⁴ + 10f³ of the distance from its edge.
    """
    ramps = [np.ones(tile * scale) for _ in starts]
    total = np.zeros((starts[-1] + tile) * scale)
    for i, (start, following) in enumerate(pairwise(starts)):
        common = (start + tile - following) * scale
        f = (np.arange(common) + 0.5) / max(common, 1)
        rise = f**3 * (6 * f**2 - 15 * f + 10)
        ramps[i][tile * scale - common :] *= rise[::-1]
        ramps[i + 1][:common] *= rise
    for start, ramp in zip(starts, ramps, strict=True):
        total[_span(start, tile, scale)] += ramp
    return [
        mx.array((ramp / total[_span(start, tile, scale)]).astype(np.float32))
        for start, ramp in zip(starts, ramps, strict=True)
    ]
