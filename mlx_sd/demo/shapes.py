"""The outlines of the things in a scene, as plain data.

A shape is a tuple of parts painted in order. Each part names a role, which the painter
turns into a colour, and an outline in pixels of a 128x128 picture: x to the right, y
downwards, the origin where the thing stands (or its centre, for things in the sky).
"""

import math
from typing import NamedTuple


class Part(NamedTuple):
    role: str  # "body", "shade" and "light" follow the thing's colour; others are fixed
    outline: str  # "polygon", or "ellipse" given by two corners of its box
    points: tuple[tuple[float, float], ...]


def polygon(role: str, *points: tuple[float, float]) -> Part:
    return Part(role, "polygon", points)


def ellipse(role: str, x: float, y: float, rx: float, ry: float) -> Part:
    """An ellipse with centre (x, y) and radii rx, ry."""
    return Part(role, "ellipse", ((x - rx, y - ry), (x + rx, y + ry)))


def rays(count: int, inner: float, outer: float) -> tuple[Part, ...]:
    """Triangles around the origin that point outwards."""
    parts = []
    for i in range(count):
        a, half = 2 * math.pi * i / count, math.pi / count * 0.6
        tip = (outer * math.cos(a), outer * math.sin(a))
        base = [
            (inner * math.cos(b), inner * math.sin(b)) for b in (a - half, a + half)
        ]
        parts.append(polygon("body", base[0], tip, base[1]))
    return tuple(parts)


def petals(count: int, y: float, radius: float, size: float) -> tuple[Part, ...]:
    """Discs in a ring around (0, y)."""
    angles = [2 * math.pi * (i + 0.5) / count for i in range(count)]
    return tuple(
        ellipse("body", radius * math.cos(a), y + radius * math.sin(a), size, size)
        for a in angles
    )


HOUSE = (
    polygon("stone", (8, -36), (13, -36), (13, -22), (8, -22)),
    polygon("body", (-15, -22), (15, -22), (15, 0), (-15, 0)),
    polygon("shade", (10, -22), (15, -22), (15, 0), (10, 0)),
    polygon("roof", (-19, -21), (0, -38), (19, -21)),
    polygon("door", (-4, -12), (3, -12), (3, 0), (-4, 0)),
    polygon("glass", (-12, -17), (-7, -17), (-7, -11), (-12, -11)),
    polygon("glass", (5, -17), (10, -17), (10, -11), (5, -11)),
)
TREE = (
    polygon("wood", (-3, -18), (3, -18), (4, 0), (-4, 0)),
    ellipse("body", -8, -23, 9, 9),
    ellipse("body", 8, -23, 9, 9),
    ellipse("body", 0, -33, 11, 11),
    ellipse("body", 0, -24, 9, 8),
    ellipse("light", -4, -35, 4, 4),
)
BOAT = (
    polygon("wood", (-1, -36), (1, -36), (1, -10), (-1, -10)),
    polygon("cream", (2, -35), (17, -14), (2, -14)),
    polygon("cream", (-2, -30), (-13, -14), (-2, -14)),
    polygon("body", (-20, -11), (20, -11), (13, 1), (-13, 1)),
    polygon("shade", (-16, -4), (16, -4), (13, 1), (-13, 1)),
)
MOUNTAIN = (
    polygon("body", (-28, 2), (-4, -40), (4, -40), (28, 2)),
    polygon("shade", (4, -40), (28, 2), (8, 2), (2, -22)),
    polygon("snow", (-10, -29), (-4, -40), (4, -40), (10, -29), (4, -25), (-2, -30)),
)
SUN = rays(10, 12, 18) + (ellipse("body", 0, 0, 12, 12), ellipse("light", -3, -3, 6, 6))
CLOUD = (
    ellipse("body", -11, 2, 9, 7),
    ellipse("body", 11, 2, 9, 7),
    ellipse("body", -3, -3, 9, 9),
    ellipse("body", 6, -2, 8, 8),
    polygon("body", (-12, 2), (12, 2), (12, 9), (-12, 9)),
    ellipse("light", -4, -5, 4, 3),
)
FLOWER = (
    polygon("stem", (-1.3, -20), (1.3, -20), (1.3, 0), (-1.3, 0)),
    ellipse("stem", -6, -6, 5, 2.6),
    ellipse("stem", 6, -8, 5, 2.6),
    *petals(6, -22, 7, 5.2),
    ellipse("heart", 0, -22, 4.6, 4.6),
)
CAT = (
    polygon("body", (9, -6), (17, -18), (20, -17), (15, -2), (9, 0)),
    ellipse("body", 2, -8, 11, 9),
    ellipse("body", -7, -19, 8.5, 8),
    polygon("body", (-15, -19), (-14, -31), (-7, -25)),
    polygon("body", (-7, -25), (0, -31), (1, -19)),
    polygon("body", (-9, -10), (-4, -10), (-4, 1), (-9, 1)),
    polygon("shade", (5, -4), (10, -4), (10, 1), (5, 1)),
    ellipse("eye", -10, -20, 2.2, 2.2),
    ellipse("eye", -4, -20, 2.2, 2.2),
    ellipse("pupil", -10, -20, 1, 1.6),
    ellipse("pupil", -4, -20, 1, 1.6),
)
FISH = (
    polygon("body", (10, -8), (21, -17), (21, 1)),
    polygon("shade", (-2, -14), (7, -21), (7, -13)),
    ellipse("body", -1, -8, 14, 8.5),
    ellipse("light", -1, -5, 8, 3),
    ellipse("eye", -9, -10, 2.6, 2.6),
    ellipse("pupil", -9.4, -10, 1.3, 1.3),
)
BALLOON = (
    polygon("wood", (-6, 10), (-4.6, 10), (-2.6, 20), (-4, 20)),
    polygon("wood", (6, 10), (4.6, 10), (2.6, 20), (4, 20)),
    ellipse("body", 0, -3, 14, 15),
    polygon("body", (-10.5, 7), (10.5, 7), (5.5, 15), (-5.5, 15)),
    ellipse("light", 0, -2, 4.5, 14),
    polygon("basket", (-4.5, 18), (4.5, 18), (4, 25), (-4, 25)),
)
MUSHROOM = (
    polygon("cream", (-5, -14), (5, -14), (6.5, 0), (-6.5, 0)),
    ellipse("body", 0, -16, 16, 5),
    Part("body", "dome", ((-16, -32), (16, 0))),
    ellipse("cream", -7, -22, 3, 2.6),
    ellipse("cream", 3, -26, 3.2, 2.8),
    ellipse("cream", 9, -19, 2.4, 2.2),
)

SHAPES: dict[str, tuple[Part, ...]] = {
    "house": HOUSE,
    "tree": TREE,
    "boat": BOAT,
    "mountain": MOUNTAIN,
    "sun": SUN,
    "cloud": CLOUD,
    "flower": FLOWER,
    "cat": CAT,
    "fish": FISH,
    "balloon": BALLOON,
    "mushroom": MUSHROOM,
}
SKY_KINDS = ("sun", "cloud", "balloon")
WATER_KINDS = ("boat", "fish")
