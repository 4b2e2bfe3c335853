"""Read a picture back: its sky, its ground, its things with their colours and places.

No network is involved. Every pixel goes to the nearest of the painter's own colours;
then each thing's silhouette is slid over each colour's pixels, and where the two
overlap well (intersection over union) the thing is there. `score` compares what was
found with what a caption named.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np

from .captions import Attribute, Caption
from .painter import (
    BODY_ROLES,
    FIXED,
    MOON,
    PAINTS,
    RGB,
    SKY_STOPS,
    ground_colour,
    shaded,
    silhouette,
)
from .scenes import COLOURS, GROUNDS, KINDS, PLACES, SIZES, SKIES, Scene

_GRID = 64  # the search runs at half of 128x128
_MARGIN = 3  # cells around a silhouette that should not have its colour
_DETAILS = ("cream", "glass", "roof", "stem", "snow", "door", "wood", "stone")
_ENOUGH = 0.55  # intersection over union that counts as seeing a thing
_MOST = 5  # things to look for: a picture should have three at most
_REACH = 19.0  # pixels: half the distance between two columns


@dataclass(frozen=True)
class Found:
    """A thing seen: `x` in pixels of a 128x128 picture, `overlap` in 0..1."""

    kind: str
    colour: str
    size: str
    x: float
    y: float
    overlap: float


Seen = tuple[str, str, list[Found]]  # sky, ground, things


def score(
    seen: Seen, scene: Scene, caption: Caption
) -> dict[tuple[Attribute, int], bool]:
    """Whether each attribute that the caption names is in the picture.

    Args:
        seen: what read() found in it.
        scene, caption: what was asked for; the caption describes the scene.

    Returns: caption.named → found. A thing's colour, size and place count only where
    a thing of the right kind is seen.
    """
    sky, ground, things = seen
    result = {}
    for name, index in caption.named:
        if index < 0:
            there, asked = (sky, scene.sky) if name == "sky" else (ground, scene.ground)
            result[name, index] = there == asked
    return result | _best_assignment(things, scene, caption)


def read(image: np.ndarray) -> Seen:
    """Sky, ground and things of a picture, (128, 128, 3) uint8."""
    small = image.reshape(_GRID, 2, _GRID, 2, 3).mean(axis=(1, 3))
    sky = _nearest_sky(small)
    ground = _nearest_ground(small, sky)
    return sky, ground, _things(_colour_maps(small, sky, ground))


def _nearest_sky(small: np.ndarray) -> str:
    """The sky whose gradient the median colours of the top rows fit best."""
    rows = np.arange(2, 34, 4)
    seen = np.median(small[rows], axis=1)

    def error(sky: str) -> float:
        return float(np.median(np.abs(seen - _gradient(sky, rows)).sum(axis=-1)))

    return min(SKIES, key=error)


def _gradient(sky: str, rows: np.ndarray) -> np.ndarray:
    stops = SKY_STOPS[sky]
    at = np.linspace(0, 79 * _GRID / 128, len(stops))
    return np.stack(
        [np.interp(rows, at, channel) for channel in zip(*stops, strict=True)], axis=-1
    )


def _nearest_ground(small: np.ndarray, sky: str) -> str:
    """The ground that most pixels of the lowest third are nearest to."""
    low = small[_GRID * 3 // 4 :].reshape(-1, 1, 3)
    tones = [[ground_colour(sky, g), _darker(ground_colour(sky, g))] for g in GROUNDS]
    palette = np.array(tones, float).reshape(-1, 3)
    nearest = ((low - palette) ** 2).sum(axis=-1).argmin(axis=1) // 2
    return GROUNDS[int(np.bincount(nearest, minlength=len(GROUNDS)).argmax())]


def _darker(colour: RGB) -> RGB:
    r, g, b = (round(0.91 * v) for v in colour)
    return r, g, b


def _colour_maps(small: np.ndarray, sky: str, ground: str) -> np.ndarray:
    """(len(COLOURS), 64, 64) of 0 or 1: pixels nearest to each thing's colour.

    The scenery's colours compete, so a white thing on snow is told from the snow.
    """
    bodies = [shaded(PAINTS[c], role) for c in COLOURS for role in BODY_ROLES]
    scenery = [tuple(c) for c in _gradient(sky, np.arange(0, 40, 5))]
    for name in (ground, "sea", "sand"):
        scenery += [ground_colour(sky, name), _darker(ground_colour(sky, name))]
    scenery += [MOON, *(FIXED[role] for role in _DETAILS)]
    palette = np.array([*bodies, *scenery], float)
    nearest = ((small[:, :, None] - palette) ** 2).sum(axis=-1).argmin(axis=-1)
    roles = len(BODY_ROLES)
    return np.stack([(nearest // roles == i) for i in range(len(COLOURS))]).astype(
        np.float64
    )


@dataclass(frozen=True)
class _Templates:
    """Silhouettes of every kind, size and direction; T of them."""

    names: list[tuple[str, str]]  # kind and size
    covers: np.ndarray  # (T, 64, 64) where nothing else fits, the thing in the middle
    areas: np.ndarray  # (T,) without the margin
    bodies: np.ndarray  # (T, 64, 33) spectra that correlate
    margins: np.ndarray  # likewise, of the margin alone


@cache
def _templates() -> _Templates:
    names, shapes = [], []
    for kind in KINDS:
        for size, factor in SIZES.items():
            for flip in (1, -1):
                names.append((kind, size))
                shapes.append(silhouette(kind, factor, flip, _GRID))
    bodies = np.stack(shapes)
    grown = _grown(bodies, _MARGIN)
    return _Templates(
        names,
        _grown(bodies, 1) > 0.5,
        bodies.sum(axis=(1, 2)),
        _spectra(bodies),
        _spectra(grown - bodies),
    )


def _spectra(images: np.ndarray) -> np.ndarray:
    return np.fft.rfft2(np.fft.ifftshift(images, axes=(1, 2))).conj()


def _grown(bodies: np.ndarray, margin: int) -> np.ndarray:
    """The largest value within so many cells."""
    grown = bodies
    for axis in (1, 2):
        shifts = range(-margin, margin + 1)
        grown = np.max([np.roll(grown, shift, axis) for shift in shifts], axis=0)
    return grown


def _overlaps(colour_map: np.ndarray) -> np.ndarray:
    """Intersection over union with each template at each spot, (T, 64, 64)."""
    templates, spectrum = _templates(), np.fft.rfft2(colour_map)
    inside = np.fft.irfft2(spectrum * templates.bodies, s=(_GRID, _GRID))
    outside = np.fft.irfft2(spectrum * templates.margins, s=(_GRID, _GRID))
    return inside / (templates.areas[:, None, None] + np.maximum(outside, 0))


def _things(maps: np.ndarray) -> list[Found]:
    """The best overlap first; what it explains is taken away before the next."""
    templates = _templates()
    found: list[Found] = []
    overlap = np.stack([_overlaps(colour_map) for colour_map in maps])
    rows, columns = np.ogrid[:_GRID, :_GRID]
    while len(found) < _MOST and overlap.max() > _ENOUGH:
        spot = np.unravel_index(overlap.argmax(), overlap.shape)
        colour, template, row, column = (int(i) for i in spot)
        kind, size = templates.names[template]
        x, y = (i * 128 / _GRID for i in (column, row))
        found.append(Found(kind, COLOURS[colour], size, x, y, float(overlap[spot])))
        shift = (row - _GRID // 2, column - _GRID // 2)
        covered = np.roll(templates.covers[template], shift, axis=(0, 1))
        maps[colour] *= ~covered
        overlap[colour] = _overlaps(maps[colour])
        near = (rows - row) ** 2 + (columns - column) ** 2
        overlap[:, :, near < templates.areas[template] / 3] = 0
    return found


def _best_assignment(
    things: list[Found], scene: Scene, caption: Caption
) -> dict[tuple[Attribute, int], bool]:
    """Match asked things with seen ones so that most attributes hold."""
    best: dict[tuple[Attribute, int], bool] = {}
    slots = [*things, *[None] * len(scene.things)]
    for choice in set(permutations(slots, len(scene.things))):
        checked = dict(_checked(choice, scene, caption))
        if not best or sum(checked.values()) > sum(best.values()):
            best = checked
    return best


def _checked(
    choice: tuple[Found | None, ...], scene: Scene, caption: Caption
) -> Iterator[tuple[tuple[Attribute, int], bool]]:
    for name, index in caption.named:
        if index < 0:
            continue
        asked, seen = scene.things[index], choice[index]
        right = seen is not None and seen.kind == asked.kind
        if right and seen is not None:
            if name == "place":
                right = abs(seen.x - PLACES[asked.place]) < _REACH
            elif name != "kind":
                right = getattr(seen, name) == getattr(asked, name)
        yield (name, index), right
