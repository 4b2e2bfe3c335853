"""Chunks of a prompt: breaks, A1111's backtracking to commas, words that stay whole."""

import logging
import random

import pytest

from mlx_sd.errors import ConfigError
from mlx_sd.tokenizers import ClipTokenizer
from mlx_sd.tokenizers.chunks import SLICE, Word, fill

BOS, EOS, CAT, DOG, COMMA = 49406, 49407, 2368, 1929, 267


@pytest.fixture(scope="module")
def standard():
    return ClipTokenizer.standard()


def sizes(chunks) -> list[int]:
    """Tokens before EOS in each chunk."""
    return [chunk.ids.index(EOS) - 1 for chunk in chunks]


def test_weights_stand_beside_their_tokens(standard):
    (chunk,) = standard.chunks("cat (dog cat:1.5) [dog]")
    assert chunk.ids[:6] == [BOS, CAT, DOG, CAT, DOG, EOS]
    assert chunk.weights == [1, 1, 1.5, 1.5, 1 / 1.1, *[1] * 72]


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("cat BREAK dog dog", [1, 2]),
        ("BREAK cat", [0, 1]),
        ("cat BREAK", [1]),
        ("BREAK", [0]),
        ("cat BREAK BREAK dog", [1, 0, 1]),
        ("cat " * 75 + "BREAK dog", [75, 1]),
        ("cat " * 76 + "BREAK dog", [75, 1, 1]),
    ],
)
def test_break_ends_the_chunk(standard, prompt, expected):
    # The numbers follow A1111's description: BREAK fills the chunk with padding.
    chunks = standard.chunks(prompt, pad=0)
    assert sizes(chunks) == expected
    for size, chunk in zip(expected, chunks, strict=True):
        assert chunk.ids[size + 1 :] == [EOS] + [0] * (SLICE - size)


def test_break_inside_brackets_is_warned_of(standard, caplog):
    (chunk,) = standard.chunks("(cat BREAK dog)")
    assert chunk.weights[1:4] == [1.1, -1.1, 1.1]
    assert "put it outside" in caplog.text


@pytest.mark.parametrize(
    "before, after, backtrack, expected",
    [  # cats, then a comma, then dogs
        (70, 10, 0, [75, 6]),
        (70, 10, 20, [71, 10]),
        (70, 10, 5, [71, 10]),  # the comma is the fifth from the end
        (70, 10, 4, [75, 6]),
        (74, 10, 1, [75, 10]),
        (75, 10, 20, [75, 11]),  # the comma itself comes next
        (50, 30, 20, [75, 6]),
        (71, 78, 74, [72, 75, 3]),
    ],
)
def test_a_phrase_after_a_near_comma_moves_whole(
    standard, before, after, backtrack, expected
):
    prompt = "cat " * before + "," + " dog" * after
    chunks = standard.chunks(prompt, comma_padding_backtrack=backtrack)
    assert sizes(chunks) == expected
    inner = [i for c in chunks for i in c.ids[1 : c.ids.index(EOS)]]
    assert inner == [CAT] * before + [COMMA] + [DOG] * after


def slow_slices(ids: list[int], backtrack: int) -> list[list[int]]:
    """The rule from behind: is there a comma near the place where 75 are full?"""
    if len(ids) <= SLICE:
        return [ids]
    cut = SLICE
    near = [i for i in range(SLICE - backtrack, SLICE) if ids[i] == COMMA]
    if near and ids[SLICE] != COMMA:
        cut = near[-1] + 1
    return [ids[:cut], *slow_slices(ids[cut:], backtrack)]


def test_backtracking_agrees_with_a_slow_reference():
    rng = random.Random(0)
    for _ in range(300):
        ids = rng.choices([CAT, COMMA], weights=[12, 1], k=rng.randrange(400))
        backtrack = rng.choice([0, 1, 5, 20, 74])
        slices = fill([Word([i], 1.0) for i in ids], COMMA, backtrack)
        found = [[i for word in words for i in word.ids] for words in slices]
        assert found == slow_slices(ids, backtrack)


@pytest.mark.parametrize("backtrack", [-1, 75])
def test_backtracking_has_bounds(standard, backtrack):
    with pytest.raises(ConfigError, match="comma_padding_backtrack .*from 0 to 74"):
        standard.chunks("cat", comma_padding_backtrack=backtrack)


def test_words_of_several_ids_are_not_divided():
    words = [Word([1], 1.0)] * 70 + [Word([7] * 8, 1.2)] + [Word([2], 1.0)]
    slices = fill(words)
    assert slices == [words[:70], words[70:]]


def test_an_infinite_weight_is_an_error(standard):
    with pytest.raises(ConfigError, match="'cat' has an infinite weight"):
        standard.chunks(f"(cat:{'9' * 400})")


def test_invalid_unicode_is_named_by_its_place_in_the_prompt(standard):
    with pytest.raises(ConfigError, match="character 7 is not valid Unicode"):
        standard.chunks("(cat) \udce9")


def test_many_chunks_are_made_in_time_linear_in_the_prompt(standard, caplog):
    caplog.set_level(logging.WARNING)
    chunks = standard.chunks("(cat:1.2), " * 5000, comma_padding_backtrack=20)
    assert sum(sizes(chunks)) == 10_000


def test_an_embedding_that_does_not_fit_tears_no_phrase_off():
    # A1111 looks for a comma only where a chunk is full to its last place.
    cat, comma, name = Word([CAT], 1.0), Word([COMMA], 1.0), Word([49408] * 8, 1.0)
    short, full = [*[cat] * 60, comma, *[cat] * 10], [*[cat] * 64, comma, *[cat] * 10]
    assert fill([*short, name], COMMA, 20) == [short, [name]]
    assert fill([*full, name], COMMA, 20) == [full[:65], [*full[65:], name]]
