"""Paint a scene with Pillow: flat shapes, soft gradients, anti-aliased.

Colours are RGB in 0..255; lengths are in pixels of a 128x128 picture, y downwards,
whatever size is rendered.
"""

import math
import random
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw

from .scenes import PLACES, SIZES, Scene, Thing
from .shapes import SHAPES, SKY_KINDS, WATER_KINDS, Part

RGB = tuple[int, int, int]
Points = Iterable[tuple[float, float]]

PAINTS: dict[str, RGB] = {
    "red": (214, 40, 40),
    "orange": (246, 134, 28),
    "yellow": (252, 214, 48),
    "green": (34, 122, 54),
    "blue": (36, 84, 204),
    "purple": (128, 52, 170),
    "pink": (250, 142, 190),
    "white": (252, 250, 246),
    "brown": (122, 74, 36),
    "black": (34, 28, 32),
    "grey": (112, 110, 112),
}
SKY_STOPS: dict[str, tuple[RGB, ...]] = {  # from the top down to the horizon
    "day": ((112, 186, 240), (206, 234, 252)),
    "sunset": ((166, 104, 158), (244, 150, 122), (255, 208, 142)),
    "night": ((16, 24, 70), (58, 70, 132)),
    "rain": ((142, 160, 180), (192, 205, 216)),
}
GROUND_PAINTS: dict[str, RGB] = {
    "grass": (142, 202, 98),
    "sand": (240, 220, 164),
    "snow": (216, 230, 246),
    "sea": (64, 160, 190),
}
TINTS: dict[str, tuple[float, float, float]] = {  # how the light colours the ground
    "day": (1.0, 1.0, 1.0),
    "sunset": (0.98, 0.86, 0.84),
    "night": (0.46, 0.54, 0.8),
    "rain": (0.84, 0.87, 0.9),
}
FIXED: dict[str, RGB] = {  # roles that keep their colour on every thing
    "roof": (96, 58, 62),
    "door": (94, 60, 40),
    "glass": (255, 240, 176),
    "wood": (108, 72, 48),
    "basket": (150, 100, 56),
    "stone": (140, 104, 98),
    "cream": (250, 240, 216),
    "snow": (250, 252, 255),
    "stem": (70, 150, 62),
    "heart": (120, 72, 30),
    "eye": (255, 255, 255),
    "pupil": (20, 20, 24),
}
MOON: RGB = (252, 242, 206)
BODY_ROLES = ("body", "shade", "light")  # what carries the thing's own colour
_SUPERSAMPLING = 4


def shaded(colour: RGB, role: str) -> RGB:
    """The paint of a body role: itself, a darker or a lighter tone."""
    if role == "shade":
        return _mixed(colour, (0, 0, 0), 0.14)
    if role == "light":
        return _mixed(colour, (255, 255, 255), 0.16)
    return colour


def ground_colour(sky: str, ground: str) -> RGB:
    r, g, b = (
        int(p * t) for p, t in zip(GROUND_PAINTS[ground], TINTS[sky], strict=True)
    )
    return r, g, b


def render(scene: Scene, size: int = 128) -> np.ndarray:
    """The picture, (size, size, 3) uint8, the same for the same scene."""
    rng = random.Random(scene.jitter)
    canvas = _Canvas(size, rng)
    horizon = rng.uniform(74, 84)
    canvas.gradient(SKY_STOPS[scene.sky], horizon)
    _paint_sky(canvas, scene, horizon)
    _paint_ground(canvas, scene, horizon)
    placed = [(_spot(thing, horizon, rng), thing) for thing in scene.things]
    for (x, y), thing in sorted(placed, key=lambda item: item[0][1]):
        _paint_base(canvas, scene, thing, x, y)
        factor = SIZES[thing.size] * rng.uniform(0.95, 1.05)
        flip = -1 if rng.random() < 0.5 else 1
        colour = PAINTS[thing.colour]
        for part in SHAPES[thing.kind]:
            paint = FIXED.get(part.role) or shaded(colour, part.role)
            canvas.part(part, x, y, factor, flip, paint)
    return canvas.finish()


def silhouette(kind: str, factor: float, flip: int = 1, size: int = 128) -> np.ndarray:
    """Where the thing's own colour shows, (size, size) in 0..1, drawn in the middle."""
    canvas = _Canvas(size, random.Random(0))
    xs, ys = zip(
        *(point for part in SHAPES[kind] for point in part.points), strict=True
    )
    y = 64 - factor * (min(ys) + max(ys)) / 2
    for part in SHAPES[kind]:
        paint = (255, 255, 255) if part.role in BODY_ROLES else (0, 0, 0)
        canvas.part(part, 64, y, factor, flip, paint)
    return canvas.finish()[..., 0] / 255.0


class _Canvas:
    """A supersampled drawing surface in 128-pixel coordinates."""

    def __init__(self, size: int, rng: random.Random):
        self.size, self.rng = size, rng
        self.scale = size * _SUPERSAMPLING / 128
        side = size * _SUPERSAMPLING
        self._use(Image.new("RGB", (side, side)))

    def _use(self, image: Image.Image) -> None:
        self.image, self.draw = image, ImageDraw.Draw(image)

    def gradient(self, stops: tuple[RGB, ...], bottom: float) -> None:
        side = self.image.width
        at = np.linspace(0, bottom * self.scale, len(stops))
        rows = [
            np.interp(np.arange(side), at, channel)
            for channel in zip(*stops, strict=True)
        ]
        column = np.stack(rows, axis=-1).round().astype(np.uint8)
        self._use(Image.fromarray(np.repeat(column[:, None], side, axis=1)))

    def polygon(self, points: Points, paint: RGB) -> None:
        self.draw.polygon([(x * self.scale, y * self.scale) for x, y in points], paint)

    def ellipse(self, x: float, y: float, rx: float, ry: float, paint: RGB) -> None:
        s = self.scale
        box = ((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s)
        self.draw.ellipse(box, paint)

    def part(
        self, part: Part, x: float, y: float, factor: float, flip: int, paint: RGB
    ) -> None:
        points = [(x + flip * factor * u, y + factor * v) for u, v in part.points]
        if part.outline == "polygon":
            self.polygon(points, paint)
            return
        (x0, y0), (x1, y1) = points
        box = [v * self.scale for v in (min(x0, x1), y0, max(x0, x1), y1)]
        if part.outline == "dome":
            self.draw.pieslice(box, 180, 360, paint)
        else:
            self.draw.ellipse(box, paint)

    def finish(self) -> np.ndarray:
        return np.asarray(self.image.reduce(_SUPERSAMPLING))


def _mixed(a: RGB, b: RGB, share: float) -> RGB:
    r, g, b_ = (round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return r, g, b_


def _spot(thing: Thing, horizon: float, rng: random.Random) -> tuple[float, float]:
    """Where the thing's origin goes."""
    x = PLACES[thing.place] + rng.uniform(-5, 5)
    if thing.kind in SKY_KINDS:
        return x, rng.uniform(24, 34)
    if thing.kind == "mountain":
        return x, horizon + 2
    low = {"house": 94, "tree": 94, "boat": 92}.get(thing.kind, 98)
    return x, rng.uniform(low, 114)


def _paint_sky(canvas: _Canvas, scene: Scene, horizon: float) -> None:
    if scene.sky == "night":
        _paint_night(canvas, scene)
    elif scene.sky == "rain":
        for i in range(6):
            for j in range(5):
                x = 11 + 22 * i + canvas.rng.uniform(-5, 5)
                y = 4 + 15 * j + 7 * (i % 2) + canvas.rng.uniform(-2, 2)
                ends = ((x, y), (x + 1.6, y), (x - 1.4, y + 9), (x - 3.0, y + 9))
                canvas.polygon(ends, (228, 236, 244))


def _paint_night(canvas: _Canvas, scene: Scene) -> None:
    rng = canvas.rng
    for i in range(6):
        for j in range(2):
            x, y = 11 + 21 * i + rng.uniform(-7, 7), 12 + 26 * j + rng.uniform(-8, 8)
            _paint_star(canvas, x, y, rng.uniform(1.6, 2.6))
    high = [t.place for t in scene.things if t.kind in (*SKY_KINDS, "mountain")]
    free = [place for place in PLACES if place not in high]
    x = PLACES[rng.choice(free)] + rng.uniform(-8, 8) if free else rng.choice((45, 83))
    y, radius = rng.uniform(16, 26), 9.0 if free else 5.0
    turns = [math.pi * (0.5 + i / 24) for i in range(25)]
    outer = [(x + radius * math.cos(a), y - radius * math.sin(a)) for a in turns]
    inner = [(x + 0.4 * radius * math.cos(a), y - radius * math.sin(a)) for a in turns]
    canvas.polygon([*outer, *reversed(inner)], MOON)


def _paint_star(canvas: _Canvas, x: float, y: float, radius: float) -> None:
    points = []
    for i in range(8):
        r, a = radius if i % 2 == 0 else 0.42 * radius, math.pi * i / 4
        points.append((x + r * math.cos(a), y + r * math.sin(a)))
    canvas.polygon(points, MOON)


def _paint_ground(canvas: _Canvas, scene: Scene, horizon: float) -> None:
    rng, base = canvas.rng, ground_colour(scene.sky, scene.ground)
    dark, light = _mixed(base, (0, 0, 0), 0.09), _mixed(base, (255, 255, 255), 0.22)
    if scene.ground == "sea":
        canvas.polygon(((0, horizon), (128, horizon), (128, 128), (0, 128)), base)
        for i in range(5):
            for j in range(2):
                x, y = 14 + 25 * i + rng.uniform(-8, 8), horizon + 13 + 20 * j
                canvas.ellipse(x, y + rng.uniform(-6, 6), 7, 1.1, light)
        return
    tones = {"grass": (base, dark), "sand": (base, dark), "snow": (dark, base)}
    far, near = tones[scene.ground]
    canvas.polygon(_hill(horizon, 1.5, rng), far)
    canvas.polygon(_hill(horizon + 20, 3.0, rng), near)
    if scene.ground == "grass":
        for i in range(6):
            x, y = 12 + 21 * i + rng.uniform(-7, 7), rng.uniform(horizon + 10, 124)
            blades = ((x - 3.5, y - 5), (x, y - 1.5), (x + 3.5, y - 5), (x, y + 1.5))
            canvas.polygon(blades, _mixed(base, (0, 60, 0), 0.3))


def _hill(y: float, height: float, rng: random.Random) -> list[tuple[float, float]]:
    phase, waves = rng.uniform(0, 2 * math.pi), rng.uniform(0.7, 1.6)
    ridge = [
        (float(x), y - height * math.sin(phase + waves * x / 20))
        for x in range(0, 130, 2)
    ]
    return [*ridge, (128.0, 128.0), (0.0, 128.0)]


def _paint_base(
    canvas: _Canvas, scene: Scene, thing: Thing, x: float, y: float
) -> None:
    """An island under a land thing at sea, a pond under a water thing on land."""
    if thing.kind in SKY_KINDS or thing.kind == "mountain":
        return
    width = 22 * SIZES[thing.size]
    if thing.kind in WATER_KINDS and scene.ground != "sea":
        canvas.ellipse(x, y, width + 2, 6, ground_colour(scene.sky, "sea"))
    elif thing.kind not in WATER_KINDS and scene.ground == "sea":
        canvas.ellipse(x, y + 1, width, 5.5, ground_colour(scene.sky, "sand"))
