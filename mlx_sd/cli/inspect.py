"""`mlx-sd inspect`: what a model file holds."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from ..convert.detect import Parameter
from ..convert.kinds import tiny
from ..convert.rules import MARKERS
from ..defaults import Defaults, defaults
from ..errors import SDError
from ..opening import open_source
from ..sampling.prediction import PREDICTIONS
from ..source import Source
from .options import part_options

T = TypeVar("T")


@click.command()
@click.argument("model", required=False)
@part_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(model: str | None, as_json: bool, **parts: str | None) -> None:
    """Say what MODEL holds, without reading its tensors.

    MODEL is a weight file, a diffusers folder, or a Hugging Face id. With parts in
    files of their own, it is what `generate` would make of them.
    """
    if model is None and not any(parts.values()):
        raise click.UsageError("nothing to inspect; give MODEL, or parts of one")
    source = open_source(model, prediction=None, taesd_preview_only=False, **parts)
    facts = describe(source)
    click.echo(json.dumps(facts, indent=2) if as_json else as_text(facts))


def describe(source: Source) -> dict[str, Any]:
    """Everything known from names and shapes, as JSON-able values."""
    contents = source.contents
    return {
        "path": str(source.path),
        "family": _unless_broken(lambda: source.kind.name),
        "kind": _unless_broken(lambda: asdict(source.kind)),
        "prediction": _unless_broken(lambda: _prediction(source)),
        "defaults": _unless_broken(lambda: asdict(defaults(source))),
        "problem": _problem(source),
        "tensors": sum(len(_tensors(p.values())) for p in contents.parts.values())
        + len(contents.ignored)
        + len(contents.unknown)
        + len(contents.markers),
        "markers": {name: MARKERS[name] for name in contents.markers},
        "parts": {part: _describe_part(source, part) for part in contents.parts},
        "ignored": contents.ignored,
        "unknown": list(contents.unknown),
    }


def _prediction(source: Source) -> dict[str, str]:
    """What the UNet predicts, and what says so."""
    name = next(k for k, v in PREDICTIONS.items() if v is source.prediction)
    said = source.training.prediction
    by = said[1] if said else f"what {source.family.name} does"
    if source.undecided:
        name, by = "eps or v", "what its UNet does, once it runs"
    return {"name": name, "by": by}


def _describe_part(source: Source, part: str) -> dict[str, Any]:
    parameters = source.contents.parts[part].values()
    tensors = _tensors(parameters)
    config = _unless_broken(lambda: source.config(part))
    return {
        "kind": tiny(config.latent_channels) if part == "tae" and config else None,
        "tensors": len(tensors),
        "parameters": source.parameters(part),
        "bytes": sum(p.entry.nbytes for p in parameters),
        "dtypes": dict(Counter(tensors.values())),
        "files": _files(parameters),
        "config": asdict(config) if config else None,
    }


def _tensors(parameters: Iterable[Parameter]) -> dict[tuple[Path, str], str]:
    """The types of the tensors behind the parameters, of which some share one."""
    return {(p.entry.path, p.entry.name): p.entry.dtype for p in parameters}


def _problem(source: Source) -> str | None:
    """Why it cannot run, or None."""
    try:
        source.check()
    except SDError as error:
        return str(error)
    return None


def _unless_broken(fact: Callable[[], T]) -> T | None:
    try:
        return fact()
    except SDError:
        return None


def _files(parameters: Iterable[Parameter]) -> list[str]:
    return sorted({str(parameter.entry.path) for parameter in parameters})


def as_text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['path']}: {facts['family'] or 'not a model that runs'}"]
    if facts["problem"]:
        lines.append(f"  problem: {facts['problem']}")
    if usual := facts["defaults"]:
        if usual["label"]:
            lines.append(f"  kind: {usual['label']}, by {usual['by']}")
        about = facts["prediction"]
        lines.append(f"  predicts: {about['name']}, by {about['by']}")
        lines.append(f"  defaults: {Defaults(**usual)}")
    lines += [f"  {name}: {about}" for name, about in facts["markers"].items()]
    for part, about in facts["parts"].items():
        kind = f"{about['kind']}, " if about["kind"] else ""
        dtypes = ", ".join(f"{n} {dtype}" for dtype, n in about["dtypes"].items())
        lines.append(
            f"  {part}: {kind}{about['parameters'] / 1e6:.1f} M parameters, "
            f"{about['bytes'] / 1e6:.1f} MB, {about['tensors']} tensors ({dtypes})"
        )
        lines += [
            f"    {key}: {value}" for key, value in (about["config"] or {}).items()
        ]
    if facts["ignored"]:
        lines.append(f"  ignored: {len(facts['ignored'])} tensors")
        reasons = Counter(facts["ignored"].values())
        lines += [f"    {n} {reason}" for reason, n in reasons.items()]
    if facts["unknown"]:
        lines.append(f"  unknown: {len(facts['unknown'])} tensors")
        lines += [f"    {name}" for name in facts["unknown"]]
    return "\n".join(lines)
