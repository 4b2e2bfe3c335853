"""Put a scene into words: the prompt grammar of the bundled model.

One scene has many captions: synonyms, word order and length vary, and a caption may
leave attributes out. What it does say is recorded beside it, so that a picture made
from it can be checked against exactly that.
"""

import random
from dataclasses import dataclass
from typing import Literal

from .scenes import Scene, Thing

SKY_WORDS = {
    "day": (
        "under a blue sky",
        "on a sunny day",
        "on a clear day",
        "during the day",
        "in daylight",
        "under a bright sky",
        "with a blue sky",
        "day",
    ),
    "sunset": (
        "at sunset",
        "under a sunset sky",
        "in the evening",
        "at dusk",
        "at dawn",
        "under an orange sky",
        "with a sunset sky",
        "sunset",
    ),
    "night": (
        "at night",
        "under a night sky",
        "under the stars",
        "on a starry night",
        "in the moonlight",
        "under a dark sky with stars and a moon",
        "under a starry sky",
        "with a night sky",
        "under the moon",
        "night",
    ),
    "rain": (
        "in the rain",
        "on a rainy day",
        "under a rainy sky",
        "under a grey rainy sky",
        "in rainy weather",
        "in a storm",
        "while it rains",
        "rain",
    ),
}
GROUND_WORDS = {
    "grass": (
        "on grass",
        "on the grass",
        "in a meadow",
        "on a green field",
        "on green grass",
        "in a garden",
        "grass",
    ),
    "sand": (
        "on sand",
        "on the beach",
        "in the desert",
        "on a sandy beach",
        "on yellow sand",
        "sand",
    ),
    "snow": (
        "in the snow",
        "on snow",
        "in winter",
        "on a snowy field",
        "in a snowy landscape",
        "snow",
    ),
    "sea": (
        "on the sea",
        "on the water",
        "at sea",
        "in the ocean",
        "on a lake",
        "by the sea",
        "sea",
    ),
}
KIND_WORDS = {
    "house": ("house", "house", "house", "cottage", "home", "cabin"),
    "tree": ("tree",),
    "boat": ("boat", "boat", "boat", "sailboat", "ship", "sailing boat"),
    "mountain": ("mountain", "mountain", "mountain", "peak", "hill"),
    "sun": ("sun",),
    "cloud": ("cloud",),
    "flower": ("flower", "flower", "flower", "blossom", "daisy"),
    "cat": ("cat", "cat", "cat", "kitten", "kitty"),
    "fish": ("fish",),
    "balloon": ("balloon", "balloon", "hot air balloon"),
    "mushroom": ("mushroom", "mushroom", "toadstool"),
}
COLOUR_WORDS = {
    "red": ("red", "red", "red", "scarlet", "crimson"),
    "yellow": ("yellow", "yellow", "yellow", "golden"),
    "purple": ("purple", "purple", "violet"),
    "grey": ("grey", "gray"),
}
SIZE_WORDS = {
    "small": ("small", "small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "big": ("big", "big", "large", "huge"),
}
PLACE_WORDS = {
    "left": ("on the left", "on the left", "at the left", "on the left side", "left"),
    "middle": ("in the middle", "in the middle", "in the center", "in the centre"),
    "right": (
        "on the right",
        "on the right",
        "at the right",
        "on the right side",
        "right",
    ),
}
OPENINGS = (
    "a picture of",
    "a painting of",
    "a drawing of",
    "an illustration of",
    "a picture book page with",
    "a scene with",
    "there is",
    "a photo of",
)
EXTRAS = (
    "picture book",
    "illustration",
    "storybook style",
    "simple",
    "cute",
    "beautiful",
    "colorful",
    "for children",
    "highly detailed",
    "masterpiece",
    "best quality",
    "watercolor",
    "flat design",
    "4k",
)

Attribute = Literal["sky", "ground", "kind", "colour", "size", "place"]


@dataclass(frozen=True)
class Caption:
    """A prompt and what it names.

    `named` holds (attribute, index of the thing); the index is -1 for sky and ground.
    """

    text: str
    named: tuple[tuple[Attribute, int], ...]


def describe(scene: Scene, rng: random.Random) -> Caption:
    """One of the scene's many captions; `rng` picks which."""
    named: list[tuple[Attribute, int]] = []
    order = list(range(len(scene.things)))
    rng.shuffle(order)
    terse = rng.random() < 0.25  # keywords with commas rather than a sentence
    things = _things(scene, order, terse, named, rng)
    tail = []
    if rng.random() < 0.8:
        tail.append(_pick(GROUND_WORDS[scene.ground], terse, rng))
        named.append(("ground", -1))
    if rng.random() < 0.85:
        tail.append(_pick(SKY_WORDS[scene.sky], terse, rng))
        named.append(("sky", -1))
    rng.shuffle(tail)
    text = _assembled(things, tail, terse, rng)
    if rng.random() < 0.12:
        text += ", " + ", ".join(rng.sample(EXTRAS, rng.randint(1, 4)))
    style = rng.random()
    if style < 0.15:
        text = text[0].upper() + text[1:] + "."
    return Caption(text, tuple(named))


def _pick(words: tuple[str, ...], terse: bool, rng: random.Random) -> str:
    """The last entry is the bare keyword, for terse captions only."""
    return words[-1] if terse and rng.random() < 0.5 else rng.choice(words[:-1])


def _assembled(things: str, tail: list[str], terse: bool, rng: random.Random) -> str:
    if terse:
        parts = [things, *tail]
        if rng.random() < 0.3:
            rng.shuffle(parts)
        return ", ".join(parts)
    if rng.random() < 0.5:
        things = f"{rng.choice(OPENINGS)} {things}"
    if tail and rng.random() < 0.25:
        front = [tail.pop()]
        return " ".join(f"{front[0]}, {' '.join([things, *tail])}".split())
    joint = ", " if rng.random() < 0.2 else " "
    return joint.join([things, *tail])


def _things(
    scene: Scene,
    order: list[int],
    terse: bool,
    named: list[tuple[Attribute, int]],
    rng: random.Random,
) -> str:
    """The noun phrases, joined; records what they name."""
    if len(order) == 2 and not terse and rng.random() < 0.2:
        related = _relation(scene, order, named, rng)
        if related:
            return related
    phrases = []
    for index in order:
        thing = scene.things[index]
        phrase = _noun(thing, index, terse, named, rng)
        if rng.random() < 0.45:
            place = rng.choice(PLACE_WORDS[thing.place])
            named.append(("place", index))
            front = rng.random() < 0.2
            phrase = f"{place} {phrase}" if front else f"{phrase} {place}"
        phrases.append(phrase)
    if terse:
        return ", ".join(phrases)
    last = rng.choice((" and ", " and ", " and ", " with ", ", ", " next to "))
    return last.join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)


def _relation(
    scene: Scene,
    order: list[int],
    named: list[tuple[Attribute, int]],
    rng: random.Random,
) -> str | None:
    """ "a cat to the left of a house", which places both things; None if untrue."""
    first, second = (scene.things[index] for index in order)
    sides = (first.place, second.place)
    if sides not in (("left", "right"), ("right", "left")):
        return None
    nouns = [_noun(scene.things[i], i, False, named, rng) for i in order]
    named.extend(("place", index) for index in order)
    link = rng.choice(("to the {} of", "{} of", "on the {} of"))
    return f" {link.format(first.place)} ".join(nouns)


def _noun(
    thing: Thing,
    index: int,
    terse: bool,
    named: list[tuple[Attribute, int]],
    rng: random.Random,
) -> str:
    words = []
    named.append(("kind", index))
    if rng.random() < (0.06 if thing.size == "medium" else 0.65):
        words.append(rng.choice(SIZE_WORDS[thing.size]))
        named.append(("size", index))
    if rng.random() < 0.8:
        words.append(rng.choice(COLOUR_WORDS.get(thing.colour, (thing.colour,))))
        named.append(("colour", index))
    if len(words) == 2 and rng.random() < 0.15:
        words.reverse()
    words.append(rng.choice(KIND_WORDS[thing.kind]))
    if terse and rng.random() < 0.7:
        return " ".join(words)
    if thing.kind == "sun" and len(words) == 1:
        return "the sun"
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([rng.choice((article, article, article, "the", "one")), *words])
