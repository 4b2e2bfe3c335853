"""A rule pairs a foreign tensor name with ours; a table of them is a name map."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from ..layouts import SAME, Layout

# {i}, {j}, {k} stand for a number and {p} for a layer's parameter, in both names.
_PLACEHOLDERS = {"p": "weight|bias", "i": r"\d+", "j": r"\d+", "k": r"\d+"}


@dataclass(frozen=True)
class Rule:
    theirs: str
    ours: str
    layout: Layout = field(default=SAME, repr=False)


class Rules:
    """Finds the one rule that fits a name. A name fits as a whole or not at all."""

    def __init__(self, *tables: Iterable[Rule]):
        self.rules = tuple(dict.fromkeys(rule for table in tables for rule in table))

    @cached_property
    def _buckets(self) -> dict[tuple[str, int], list[tuple[re.Pattern[str], Rule]]]:
        # By first component and number of components, to try few patterns per name.
        buckets: dict[tuple[str, int], list[tuple[re.Pattern[str], Rule]]] = {}
        for rule in self.rules:
            entry = _pattern(rule.theirs), rule
            buckets.setdefault(_bucket(rule.theirs), []).append(entry)
        return buckets

    def matches(self, name: str) -> Iterator[tuple[str, Layout]]:
        """Our name and the layout, for each rule that fits; at most one should."""
        for pattern, rule in self._buckets.get(_bucket(name), ()):
            if found := pattern.fullmatch(name):
                yield rule.ours.format_map(found.groupdict()), rule.layout

    def match(self, name: str) -> tuple[str, Layout] | None:
        return next(self.matches(name), None)

    def theirs(self, ours: str) -> str | None:
        """The foreign name of one of our parameters; the first, if it has several."""
        for rule in self.rules:
            if found := _pattern(rule.ours).fullmatch(ours):
                return rule.theirs.format_map(found.groupdict())
        return None


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(
        re.sub(
            r"\\{(\w)\\}",
            lambda match: f"(?P<{match[1]}>{_PLACEHOLDERS[match[1]]})",
            re.escape(name),
        )
    )


def _bucket(name: str) -> tuple[str, int]:
    return name.split(".", 1)[0], name.count(".")


def under(
    theirs: str, ours: str, leaves: Iterable[tuple[str, str, Layout]]
) -> Iterator[Rule]:
    """Rules for the parts of one module, whose two names come first."""
    for their_leaf, our_leaf, layout in leaves:
        yield Rule(f"{theirs}.{their_leaf}.{{p}}", f"{ours}.{our_leaf}.{{p}}", layout)
