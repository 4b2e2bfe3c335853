"""The bundled model's scenes, captions and the score that reads pictures back."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mlx_sd.demo import painter
from mlx_sd.demo.captions import (
    COLOUR_WORDS,
    GROUND_WORDS,
    KIND_WORDS,
    SKY_WORDS,
    Caption,
    describe,
)
from mlx_sd.demo.scenes import (
    COLOURS,
    GROUNDS,
    KINDS,
    PLACES,
    SIZES,
    SKIES,
    Scene,
    Thing,
    held_out,
    random_scene,
    stream,
)
from mlx_sd.demo.score import Seen, read, score


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Scene, Caption]]:
    rows = itertools.islice(stream(3, held=True), 80)
    return [(scene, describe(scene, r)) for scene, r in rows]


@pytest.fixture(scope="module")
def seen(drawn) -> list[Seen]:
    return [read(painter.render(scene)) for scene, _ in drawn]


def everything(scene: Scene) -> Caption:
    """A caption that names all there is."""
    parts = ("kind", "colour", "size", "place")
    named = [(part, i) for i in range(len(scene.things)) for part in parts]
    return Caption("", (("sky", -1), ("ground", -1), *named))


def test_tables_cover_one_vocabulary():
    assert KIND_WORDS.keys() == painter.SHAPES.keys() == set(KINDS)
    assert painter.PAINTS.keys() == set(COLOURS) >= COLOUR_WORDS.keys()
    assert painter.SKY_STOPS.keys() == painter.TINTS.keys() == set(SKIES)
    assert SKY_WORDS.keys() == set(SKIES)
    assert painter.GROUND_PAINTS.keys() == GROUND_WORDS.keys() == set(GROUNDS)


def test_a_scene_is_drawn_the_same_twice_and_jitter_alone_changes_it():
    scene = random_scene(random.Random(5))
    first = painter.render(scene)
    assert first.shape == (128, 128, 3) and first.dtype == np.uint8
    assert np.array_equal(first, painter.render(scene))
    assert not np.array_equal(first, painter.render(replace(scene, jitter=1)))


def test_size_changes_the_resolution_only():
    scene = random_scene(random.Random(6))
    large = painter.render(scene, 256).reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(large - painter.render(scene)).mean() < 1.0


def test_random_scenes_reach_every_value():
    scenes = [random_scene(random.Random(i)) for i in range(500)]
    things = [thing for scene in scenes for thing in scene.things]
    assert {len(scene.things) for scene in scenes} == {1, 2, 3}
    assert {scene.sky for scene in scenes} == set(SKIES)
    assert {scene.ground for scene in scenes} == set(GROUNDS)
    assert {(t.kind, t.colour) for t in things} == set(
        itertools.product(KINDS, COLOURS)
    )
    assert {(t.size, t.place) for t in things} == set(itertools.product(SIZES, PLACES))


def test_held_out_scenes_are_a_sixteenth_and_do_not_depend_on_jitter_or_order():
    scenes = [random_scene(random.Random(i)) for i in range(2000)]
    assert 0.04 < sum(map(held_out, scenes)) / len(scenes) < 0.09
    for scene in scenes[:200]:
        other = Scene(scene.sky, scene.ground, scene.things[::-1], 0)
        assert held_out(other) == held_out(scene)


def test_captions_vary_and_say_what_they_claim():
    rng = random.Random(7)
    scene = random_scene(rng)
    assert len({describe(scene, rng).text for _ in range(50)}) > 45
    for seed in range(300):
        scene = random_scene(random.Random(seed))
        caption = describe(scene, random.Random(seed))
        text = caption.text.lower()
        for name, index in caption.named:
            if name == "kind":
                assert any(w in text for w in KIND_WORDS[scene.things[index].kind])
            if name == "colour":
                colour = scene.things[index].colour
                assert any(w in text for w in COLOUR_WORDS.get(colour, (colour,)))
            if name == "sky":
                assert any(words in text for words in SKY_WORDS[scene.sky])


def test_score_finds_what_the_painter_drew(drawn, seen):
    asked = zip(seen, drawn, strict=True)
    results = [ok for found, of in asked for ok in score(found, *of).values()]
    assert np.mean(results) > 0.98


def test_score_tolerates_noise_as_a_decoder_leaves(drawn):
    rng = np.random.default_rng(0)
    results = []
    for scene, caption in drawn[:30]:
        image = painter.render(scene)
        noisy = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        results += score(read(noisy), scene, caption).values()
    assert np.mean(results) > 0.97


def test_score_is_low_for_pictures_of_other_scenes(drawn, seen):
    """Chance alone: one sky in four, and a thing of the right kind now and then."""
    asked: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for of, other in zip(drawn, seen[1:], strict=False):
        for (name, _), ok in score(other, *of).items():
            asked[name] += 1
            found[name] += ok
    assert all(found[name] / asked[name] < 0.4 for name in ("sky", "ground", "kind"))
    assert all(found[name] / asked[name] < 0.2 for name in ("colour", "size", "place"))


@pytest.mark.parametrize(
    "change",
    [{"colour": "blue"}, {"place": "right"}, {"size": "small"}, {"kind": "tree"}],
    ids=lambda change: next(iter(change)),
)
def test_score_notices_one_wrong_attribute(change):
    scene = Scene("day", "grass", (Thing("house", "red", "big", "left"),), 3)
    found = read(painter.render(scene))
    assert all(score(found, scene, everything(scene)).values())
    wrong = replace(scene, things=(replace(scene.things[0], **change),))
    result = score(found, wrong, everything(wrong))
    failed = {name for (name, _), ok in result.items() if not ok}
    all_of_it = {"kind", "colour", "size", "place"}
    assert failed == (all_of_it if "kind" in change else set(change))


def test_an_empty_picture_has_no_things():
    scene = Scene("night", "sea", (), 11)
    assert read(painter.render(scene)) == ("night", "sea", [])
