"""Weights in a prompt: `(more)`, `[less]`, `(as much:1.3)`, and `BREAK`.

The grammar is that of A1111, its unbalanced brackets included; see docs/prompts.md.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

STEP = 1.1  # what a pair of round brackets multiplies by, and square ones divide by


class Piece(NamedTuple):
    """A run of text of one weight."""

    text: str
    weight: float


# A1111 marks a break by this weight, so that brackets around it, which multiply its
# weight, make it a word: it then is encoded, as it is in stable-diffusion.cpp.
BREAK = Piece("BREAK", -1.0)

_BREAKS = re.compile(r"\s*\bBREAK\b\s*")
_TOKEN = re.compile(
    r"""\\(?P<escaped>[\\()\[\]]?)  # a lone backslash vanishes
    |(?P<opening>[(\[])
    |:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
    |(?P<closing>[)\]])
    |[^\\()\[\]:]+|:""",
    re.VERBOSE,
)


def parse(prompt: str) -> list[Piece]:
    """The prompt as runs of text with their weights; any text is a prompt.

    Neighbours of equal weight are one run. A bracket that is never closed counts to the
    end; one that closes nothing is text. BREAK is a piece of its own.

    Source: A1111, modules/prompt_parser.py (1.10), whose number such as "1.2.3", an
    error there, is text here.
    """
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        for index in range(opened[bracket].pop(), len(weights)):
            weights[index] *= factor

    for token in _TOKEN.finditer(prompt):
        kind, text = token.lastgroup, token[0]
        closing = "[" if text == "]" else "("
        if kind == "opening":
            opened[text].append(len(texts))
        elif kind in ("weight", "closing") and opened[closing]:
            close(
                closing,
                float(token["weight"] or (STEP if closing == "(" else 1 / STEP)),
            )
        else:
            plain = (
                [Piece(token["escaped"], 1.0)] if kind == "escaped" else _split(text)
            )
            texts += [piece.text for piece in plain]
            weights += [piece.weight for piece in plain]
    for bracket, factor in (("(", STEP), ("[", 1 / STEP)):
        while opened[bracket]:
            close(bracket, factor)
    return _merge(map(Piece, texts, weights))


def _split(text: str) -> list[Piece]:
    """Text without brackets, at its breaks, which take the space around them along."""
    first, *others = _BREAKS.split(text)
    rest = [piece for other in others for piece in (BREAK, Piece(other, 1.0))]
    return [Piece(first, 1.0), *rest]


def _merge(pieces: Iterator[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        if merged and merged[-1].weight == piece.weight:
            piece = Piece(merged.pop().text + piece.text, piece.weight)
        merged.append(piece)
    return merged or [Piece("", 1.0)]
