"""What a set of tensors is, from names and shapes alone; no tensor is read."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import mlx.core as mx

from ..errors import CheckpointError
from .layouts import Layout, Shape
from .readers import Entry
from .rules import IGNORED, PREFIXES, RULESETS


@dataclass(frozen=True)
class Parameter:
    """A tensor of a file, as one of our parameters."""

    entry: Entry
    layout: Layout

    @property
    def shape(self) -> Shape:
        return self.layout.shape(self.entry.shape)

    def read(self) -> mx.array:
        return self.layout.ours(self.entry.read())


Parameters = dict[str, Parameter]  # by our name


@dataclass(frozen=True)
class Contents:
    """Every tensor of the source, accounted for."""

    parts: dict[str, Parameters]
    ignored: dict[str, str]  # known, and why they are not needed for a picture
    unknown: list[str]


def identify(entries: Mapping[str, Entry]) -> Contents:
    """Give each tensor its place: a parameter of a part, ignored, or unknown.

    Raises: CheckpointError if two tensors claim one parameter.
    """
    contents = Contents(parts={}, ignored={}, unknown=[])
    for name, entry in entries.items():
        place = _place(name)
        if place is None:
            reason = next(
                (why for known, why in IGNORED if known.fullmatch(name)), None
            )
            if reason is None:
                contents.unknown.append(name)
            else:
                contents.ignored[name] = reason
            continue
        part, ours, layout = place
        parameters = contents.parts.setdefault(part, {})
        if ours in parameters:
            raise CheckpointError(
                f"{entry.path}: {name!r} and {parameters[ours].entry.name!r} are both "
                f"the {part}'s {ours}; one of them must go"
            )
        parameters[ours] = Parameter(entry, layout)
    return contents


def _place(name: str) -> tuple[str, str, Layout] | None:
    for part, prefixes in PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                if found := _match(part, name[len(prefix) :]):
                    return part, *found
    return None


def _match(part: str, name: str) -> tuple[str, Layout] | None:
    for rules in RULESETS[part]:
        if found := rules.match(name):
            return found
    return None


def as_part(entries: Mapping[str, Entry], part: str) -> dict[str, Entry]:
    """One part's tensors, from those of a file of that part alone or of several.

    Raises: CheckpointError if none of the tensors belongs to the part.
    """
    prefixes = PREFIXES[part]
    chosen = {name: e for name, e in entries.items() if name.startswith(prefixes)}
    if not chosen:
        chosen = {f"{prefixes[-1]}{name}": e for name, e in entries.items()}
    if part not in identify(chosen).parts:
        path = next(iter(entries.values())).path
        raise CheckpointError(
            f"{path}: no {part} in it; see what it holds with: mlx-sd inspect {path}"
        )
    return chosen


def with_prefixes(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Names as in a file of several parts; those of a lone part get its prefix."""
    if any(
        name.startswith(p) for ps in PREFIXES.values() for p in ps for name in entries
    ):
        return dict(entries)
    part = likeliest_part(entries)
    return as_part(entries, part) if part else dict(entries)


def likeliest_part(names: Collection[str]) -> str | None:
    """The part that can place most of these names, which have no prefix."""
    fits = {part: sum(bool(_match(part, n)) for n in names) for part in RULESETS}
    best = max(fits, key=lambda part: fits[part])
    return best if fits[best] else None


def foreign_name(part: str, ours: str, sibling: str) -> str:
    """What a parameter would be called in a file that has a tensor named `sibling`."""
    for prefix in PREFIXES[part]:
        if sibling.startswith(prefix):
            for rules in RULESETS[part]:
                if rules.match(sibling[len(prefix) :]) and (name := rules.theirs(ours)):
                    return prefix + name
    return ours
