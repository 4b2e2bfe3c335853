"""Picture-book scenes: what is in one, and how to invent one.

A `Scene` is a small frozen value; `painter.render` is a function of it alone, so the
same scene gives the same picture on any machine.
"""

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace

from .shapes import SHAPES, SKY_KINDS

SKIES = ("day", "sunset", "night", "rain")
GROUNDS = ("grass", "sand", "snow", "sea")
COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "white",
    "brown",
    "black",
    "grey",
)
SIZES = {"small": 0.75, "medium": 1.05, "big": 1.4}  # factor on the shape's outline
PLACES = {"left": 26.0, "middle": 64.0, "right": 102.0}  # x of the column's centre
KINDS = tuple(SHAPES)

USUAL = {  # colours that a thing has more often than others
    "house": ("red", "white", "yellow", "blue"),
    "tree": ("green", "green", "orange"),
    "boat": ("red", "blue", "brown", "white"),
    "mountain": ("grey", "grey", "purple", "blue", "brown"),
    "sun": ("yellow", "yellow", "orange", "red"),
    "cloud": ("white", "white", "grey", "pink"),
    "flower": ("red", "pink", "yellow", "purple"),
    "cat": ("black", "orange", "grey", "white"),
    "fish": ("orange", "red", "blue", "yellow"),
    "balloon": ("red", "yellow", "purple", "orange"),
    "mushroom": ("red", "red", "brown", "orange"),
}
_BUCKETS = 16  # one scene in this many is never trained on


@dataclass(frozen=True)
class Thing:
    """One object: keys of KINDS, COLOURS, SIZES and PLACES."""

    kind: str
    colour: str
    size: str
    place: str


@dataclass(frozen=True)
class Scene:
    """A whole picture; `jitter` seeds what words do not say (exact spots, stars)."""

    sky: str
    ground: str
    things: tuple[Thing, ...]
    jitter: int


def random_scene(rng: random.Random) -> Scene:
    """A scene with one to three things, none hiding another."""
    things: list[Thing] = []
    for _ in range(rng.choices((1, 2, 3), (3, 5, 4))[0]):
        thing = _random_thing(rng)
        free = [p for p in PLACES if _fits(thing, p, things)]
        if free:
            things.append(replace(thing, place=rng.choice(free)))
    return Scene(
        rng.choice(SKIES), rng.choice(GROUNDS), tuple(things), rng.getrandbits(32)
    )


def held_out(scene: Scene) -> bool:
    """Whether the scene, jitter and order aside, is reserved for evaluation."""
    spec = (scene.sky, scene.ground, sorted(astuple(thing) for thing in scene.things))
    return hashlib.sha256(repr(spec).encode()).digest()[0] % _BUCKETS == 0


def stream(seed: int, held: bool) -> Iterator[tuple[Scene, random.Random]]:
    """An endless row of scenes that are, or are not, reserved for evaluation.

    Each comes with a generator in a fixed state, for its captions.
    """
    for index in itertools.count():
        rng = random.Random(seed * 2**40 + index)
        scene = random_scene(rng)
        if held_out(scene) == held:
            yield scene, rng


def _random_thing(rng: random.Random) -> Thing:
    kind = rng.choice(KINDS)
    colour = rng.choice(USUAL[kind] if rng.random() < 0.45 else COLOURS)
    size = rng.choices(tuple(SIZES), (3, 5, 3))[0]
    return Thing(kind, colour, size, rng.choice(tuple(PLACES)))


def _fits(thing: Thing, place: str, others: list[Thing]) -> bool:
    """Two things share a column only if one is in the sky and neither is tall."""
    for other in others:
        if other.place != place:
            continue
        same_layer = (thing.kind in SKY_KINDS) == (other.kind in SKY_KINDS)
        if same_layer or _tall(thing) or _tall(other):
            return False
    return True


def _tall(thing: Thing) -> bool:
    return thing.size == "big" or thing.kind in ("mountain", "balloon", "tree")
