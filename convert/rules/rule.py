"""A rule pairs a foreign tensor name with ours; a table of them is a name map."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from ..layouts import SAME, Layout

Groups = dict[str, str]  # placeholder → what it stands for in a name


@dataclass(frozen=True)
class Rule:
    """A name is made of components, and a placeholder stands for a whole one.

    {i}, {j}, {k} are numbers and {p} is a layer's weight or bias. {qkv}, in our name
    alone, makes three parameters of one tensor: equal shares of its rows, in order.
    """

    theirs: str
    ours: str
    layout: Layout = field(default=SAME, repr=False)

    def parameters(self, groups: Groups) -> tuple[str, ...]:
        if "{qkv}" in self.ours:
            return tuple(self.ours.format_map({**groups, "qkv": x}) for x in "qkv")
        return (self.ours.format_map(groups),)


class Match(NamedTuple):
    theirs: str
    ours: tuple[str, ...]  # one parameter, or three that share the tensor
    layout: Layout


class Rules:
    """Finds the one rule that fits a name. A name fits as a whole or not at all."""

    def __init__(self, *tables: Iterable[Rule]):
        self.rules = tuple(dict.fromkeys(rule for table in tables for rule in table))

    def matches(self, theirs: str) -> Iterator[Match]:
        """One for each rule that fits a foreign name; at most one should."""
        return _matches(self._by_theirs, theirs)

    def match(self, theirs: str) -> Match | None:
        """The first; remembered, for a file's names are tried in several tables."""
        return _first(self._by_theirs, theirs)

    def sources(self, ours: str) -> Iterator[Match]:
        """The foreign names that a parameter of ours can have, the usual one first."""
        return _matches(self._by_ours, ours)

    @cached_property
    def _by_theirs(self) -> "_Tree":
        return _tree((rule.theirs, rule) for rule in self.rules)

    @cached_property
    def _by_ours(self) -> "_Tree":
        return _tree((rule.ours, rule) for rule in self.rules)


def under(
    theirs: str, ours: str, leaves: Iterable[tuple[str, str, Layout]]
) -> Iterator[Rule]:
    """Rules for the parts of one module, whose two names come first."""
    for their_leaf, our_leaf, layout in leaves:
        yield Rule(f"{theirs}.{their_leaf}.{{p}}", f"{ours}.{our_leaf}.{{p}}", layout)


class _Tree:
    """Rules by the components of a name: one look-up each, however many rules."""

    def __init__(self) -> None:
        self.words: dict[str, _Tree] = {}
        self.placeholders: dict[str, _Tree] = {}
        self.rules: list[Rule] = []


def _tree(rules: Iterable[tuple[str, Rule]]) -> _Tree:
    root = _Tree()
    for name, rule in rules:
        node = root
        for part in name.split("."):
            if part.startswith("{"):
                node = node.placeholders.setdefault(part.strip("{}"), _Tree())
            else:
                node = node.words.setdefault(part, _Tree())
        node.rules.append(rule)
    return root


def _matches(tree: _Tree, name: str) -> Iterator[Match]:
    ways: list[tuple[_Tree, Groups]] = [(tree, {})]
    for part in name.split("."):
        ways = [way for node, groups in ways for way in _steps(node, groups, part)]
        if not ways:
            return
    for node, groups in ways:
        for rule in node.rules:
            yield Match(
                rule.theirs.format_map(groups), rule.parameters(groups), rule.layout
            )


@lru_cache(maxsize=1 << 14)
def _first(tree: _Tree, name: str) -> Match | None:
    return next(_matches(tree, name), None)


def _steps(node: _Tree, groups: Groups, part: str) -> Iterator[tuple[_Tree, Groups]]:
    if part in node.words:
        yield node.words[part], groups
    for placeholder, child in node.placeholders.items():
        if _stands_for(placeholder, part):
            yield child, {**groups, placeholder: part}


def _stands_for(placeholder: str, part: str) -> bool:
    if placeholder == "p":
        return part in ("weight", "bias")
    if placeholder == "qkv":
        return part in ("q", "k", "v")
    return part.isdecimal() and part.isascii() and len(part) < 3  # none has a hundred
