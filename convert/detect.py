"""What a set of tensors is, from names and shapes alone; no tensor is read."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from ..errors import CheckpointError
from .configs import unet_config
from .kinds import Kind, kind
from .layouts import ROWS
from .parameter import Parameter, Parameters
from .readers import Entry
from .rules import IGNORED, MARKERS, PREFIXES, RULESETS, UNUSED, Match
from .rules.extras import Patterns

__all__ = [
    "Contents",
    "Kind",
    "Parameter",
    "Parameters",
    "as_part",
    "combined",
    "family",
    "foreign_name",
    "identify",
]

# The first text encoder is one of three, which have widths of their own.
_ENCODERS = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
_FIRST = {"clip_l", "clip_h"}
_LATENT = ("vae", "tae")
# What may be in the place of a part: of these, the first that is there.
_STANDS_FOR = {"clip_l": ("clip_l", "clip_h"), "vae": _LATENT}

_LONGEST_FIRST = sorted(PREFIXES, key=len, reverse=True)
_PREFIX = re.compile("|".join(map(re.escape, _LONGEST_FIRST)))


@dataclass(frozen=True)
class Contents:
    """Every tensor of the source, accounted for."""

    parts: dict[str, Parameters]
    spare: dict[str, Parameters]  # of the parts, but no picture needs them
    ignored: dict[str, str]  # tensors that no picture needs, and why
    unknown: dict[str, Entry]
    markers: dict[str, Entry]  # of how the model was trained; see rules.MARKERS

    @staticmethod
    def empty() -> "Contents":
        return Contents(parts={}, spare={}, ignored={}, unknown={}, markers={})

    def under(self, folder: str) -> "Contents":
        """With the folder before names that would else not say where they are."""
        ignored = {f"{folder}/{name}": why for name, why in self.ignored.items()}
        unknown = {f"{folder}/{name}": entry for name, entry in self.unknown.items()}
        return replace(self, ignored=ignored, unknown=unknown)


def identify(entries: Mapping[str, Entry], lone: str | None = None) -> Contents:
    """Give each tensor its place: a parameter of a part, a marker, ignored, or unknown.

    Args:
        lone: the part that the tensors belong to where none has a part's prefix; None:
            that which can place most of them.

    Raises: CheckpointError if two tensors claim one parameter, or a tensor cannot be
        shared out among the parameters that it holds.
    """
    markers = {name: e for name, e in entries.items() if name in MARKERS}
    contents = replace(Contents.empty(), markers=markers)
    by_part: dict[str, list[tuple[str, Entry]]] = {}
    for name, entry in entries.items():
        if name not in markers:
            prefix = prefix_of(name)
            part = PREFIXES.get(prefix, "")
            by_part.setdefault(part, []).append((name[len(prefix) :], entry))
    if by_part.keys() == {""}:
        names = [name for name, _ in by_part[""]]
        part = lone or _likeliest(("unet", *_LATENT, "clip_l"), names)
        _place(contents, part, by_part[""], IGNORED[part] + IGNORED[""] * bool(part))
    else:
        for part, named in by_part.items():
            _place(contents, part, named, IGNORED[part])
    return contents


def prefix_of(name: str) -> str:
    """The prefix of a tensor's name that says which part it belongs to; "" if none."""
    found = _PREFIX.match(name)
    return found[0] if found else ""


def _place(
    contents: Contents,
    part: str,
    named: Iterable[tuple[str, Entry]],
    ignorable: Patterns,
) -> None:
    """Add tensors of one part, by their names without its prefix, to the contents."""
    names = [name for name, _ in named]
    part = _likeliest(_LATENT, names) if part in _LATENT else part
    matches = _fits(part, names)
    part = _which(part, named, matches)
    unused = UNUSED.get(part, ())
    for name, entry in named:
        match = matches.get(name)
        if match and (reason := _reason(unused, match.ours[0])):
            contents.ignored[entry.name] = reason
            _fill(contents.spare.setdefault(part, {}), part, entry, match)
        elif match:
            _fill(contents.parts.setdefault(part, {}), part, entry, match)
        elif reason := _reason(ignorable, name):
            contents.ignored[entry.name] = reason
        else:
            contents.unknown[entry.name] = entry


def _fits(part: str, names: Collection[str]) -> dict[str, Match]:
    """What the names mean in the table that knows most of them."""
    best: dict[str, Match] = {}
    for rules in RULESETS.get(part, ()):
        found = {name: match for name in names if (match := rules.match(name))}
        if len(found) > len(best):
            best = found
    return best


def _which(
    part: str, named: Iterable[tuple[str, Entry]], matches: Mapping[str, Match]
) -> str:
    """The part by name, once its width has told which text encoder comes first."""
    if part != "clip_l":
        return part
    widths = [
        entry.shape[-1]
        for name, entry in named
        if entry.shape and name in matches and matches[name].ours == ("token.weight",)
    ]
    fused = any(match.layout is ROWS for match in matches.values())
    return _ENCODERS.get(widths[0] if widths else 0, "clip_h" if fused else part)


def _reason(patterns: Patterns, name: str) -> str | None:
    return next((why for known, why in patterns if known.fullmatch(name)), None)


def _fill(parameters: Parameters, part: str, entry: Entry, match: Match) -> None:
    for i, ours in enumerate(match.ours):
        if ours in parameters:
            raise CheckpointError(
                f"{entry.path}: {entry.name!r} and {parameters[ours].entry.name!r} are "
                f"both the {part}'s {ours}; one of them must go"
            )
        share = _share(entry, i, len(match.ours))
        parameters[ours] = Parameter(share, match.layout)


def _share(entry: Entry, index: int, count: int) -> Entry:
    """One of `count` equal shares of a tensor's rows."""
    if count == 1:
        return entry
    if not entry.shape or entry.shape[0] % count or entry.nbytes % count:
        raise CheckpointError(
            f"{entry.path}: {entry.name} of shape {list(entry.shape)} cannot be "
            f"{count} weights, one below the other"
        )
    size = entry.nbytes // count
    return replace(
        entry,
        shape=(entry.shape[0] // count, *entry.shape[1:]),
        nbytes=size,
        raw=lambda: entry.raw()[index * size : (index + 1) * size],
    )


def _likeliest(parts: Iterable[str], names: Collection[str]) -> str:
    """The part that can place most of these names, without prefix; "" if none can."""
    fits = {part: len(_fits(part, names)) for part in parts}
    best = max(fits, key=lambda part: fits[part])
    return best if fits[best] else ""


def as_part(entries: Mapping[str, Entry], part: str) -> Contents:
    """One part of a file: that alone, whatever else is in it.

    Args:
        part: "clip_l" stands for the first text encoder, which SD 2.x calls clip_h,
            and "vae" for the tiny autoencoder, tae, where there is no VAE.

    Raises: CheckpointError if the part is not there.
    """
    contents = identify(entries, lone=part)
    places = _STANDS_FOR.get(part, (part,))
    wanted = next((name for name in places if name in contents.parts), None)
    if wanted is None:
        path = next(iter(entries.values())).path
        raise CheckpointError(
            f"{path}: no {part} in it; see what it holds with: mlx-sd inspect {path}"
        )
    if contents.parts.keys() == {wanted}:
        return contents
    parts = {wanted: contents.parts[wanted]}
    spare = {name: p for name, p in contents.spare.items() if name == wanted}
    return replace(contents, parts=parts, spare=spare, ignored={}, unknown={})


def combined(whole: Contents, part: Contents, beside: bool = False) -> Contents:
    """A model in which a part, of as_part, takes the place of its own, if any.

    A tiny autoencoder takes a VAE's place too, and the reverse; its encoder and decoder
    may come one after the other.

    Args:
        beside: whether a tiny autoencoder leaves a VAE where it is.
    """
    replaced = set(part.parts)
    for places in (_FIRST, _LATENT):
        if replaced.intersection(places) and not beside:
            replaced.update(places)
    parts = _without(whole.parts, replaced) | part.parts
    own, other = whole.parts.get("tae", {}), part.parts.get("tae", {})
    if own and other and own.keys().isdisjoint(other):
        parts["tae"] = own | other
    return Contents(
        parts=parts,
        spare=_without(whole.spare, replaced) | part.spare,
        ignored=whole.ignored | part.ignored,
        unknown=whole.unknown | part.unknown,
        markers=part.markers if "unet" in part.parts else whole.markers,
    )


def _without(
    parts: Mapping[str, Parameters], left: Collection[str]
) -> dict[str, Parameters]:
    return {name: parameters for name, parameters in parts.items() if name not in left}


def family(contents: Contents) -> Kind | None:
    """The kind of model, by its UNet; None if there is no UNet.

    Raises: CheckpointError if an outer part of the UNet is missing.
    """
    unet = contents.parts.get("unet")
    return kind(unet_config(unet)) if unet else None


def foreign_name(part: str, ours: str, sibling: str) -> str:
    """What a parameter would be called in a file that has a tensor named `sibling`."""
    prefix = prefix_of(sibling)
    for rules in RULESETS[part]:
        if rules.match(sibling[len(prefix) :]):
            for match in rules.sources(ours):
                return prefix + match.theirs
    return ours
