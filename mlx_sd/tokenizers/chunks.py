"""Tokens into chunks: the 77 places that a text encoder reads at once."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

CHUNK = 77  # places of the text encoder
SLICE = CHUNK - 2  # of them between BOS and EOS


class Chunk(NamedTuple):
    """CHUNK ids, each with the weight of its state; 1 but in the prompt's slice."""

    ids: list[int]
    weights: list[float]


class Word(NamedTuple):
    """Ids that stay together: one token, or all vectors of an embedding."""

    ids: Sequence[int]  # at most SLICE
    weight: float


def fill(
    words: Iterable[Word | None], comma: int | None = None, backtrack: int = 0
) -> list[list[Word]]:
    """Words into slices of at most SLICE ids, in order and each as full as it can be.

    Args:
        words: None ends a slice, which may be empty.
        comma, backtrack: where a full slice has this id among its last `backtrack`,
            what follows the last of them moves to the next slice, unless a comma comes
            next. This is A1111's comma_padding_backtrack.

    Returns: at least one slice.
    """
    slices: list[list[Word]] = [[]]
    begun = True  # whether the last slice is to be kept though it is empty
    for word in words:
        if not begun:
            slices.append([])
            begun = True
        if word is None:
            begun = False
            continue
        while (length := _length(slices[-1])) + len(word.ids) > SLICE:
            cut = len(slices[-1])
            if length == SLICE and list(word.ids) != [comma]:
                cut = _after_comma(slices[-1], comma, backtrack)
            slices[-1:] = [slices[-1][:cut], slices[-1][cut:]]
        slices[-1].append(word)
    return slices


def _length(words: list[Word]) -> int:
    return sum(len(word.ids) for word in words)


def _after_comma(words: list[Word], comma: int | None, backtrack: int) -> int:
    """Where to cut: behind the last comma among the last ids, or at the end."""
    behind = 0
    for index in reversed(range(len(words))):
        behind += len(words[index].ids)
        if behind > backtrack:
            break
        if list(words[index].ids) == [comma]:
            return index + 1
    return len(words)
