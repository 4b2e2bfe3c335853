"""`mlx-sd inspect`: what a model file holds."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click

from ..convert.detect import Parameter
from ..errors import SDError
from ..load import Source, open_source


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(model: str, as_json: bool) -> None:
    """Say what MODEL holds, without reading its tensors.

    MODEL is a weight file, a diffusers folder, or a Hugging Face id.
    """
    facts = describe(open_source(model))
    click.echo(json.dumps(facts, indent=2) if as_json else as_text(facts))


def describe(source: Source) -> dict[str, Any]:
    """Everything known from names and shapes, as JSON-able values."""
    contents = source.contents
    try:
        family, problem = source.family.name, None
        for part in contents.parts:
            source.outline(part)
    except SDError as error:
        family, problem = None, str(error)
    return {
        "path": str(source.path),
        "family": family,
        "problem": problem,
        "tensors": sum(map(len, contents.parts.values()))
        + len(contents.ignored)
        + len(contents.unknown),
        "parts": {
            part: {
                "tensors": len(parameters),
                "parameters": sum(_size(p) for p in parameters.values()),
                "bytes": sum(p.entry.nbytes for p in parameters.values()),
                "dtypes": dict(Counter(p.entry.dtype for p in parameters.values())),
                "files": _files(parameters.values()),
                "config": asdict(source.configs[part]),
            }
            for part, parameters in contents.parts.items()
        },
        "ignored": contents.ignored,
        "unknown": contents.unknown,
    }


def _size(parameter: Parameter) -> int:
    size = 1
    for length in parameter.shape:
        size *= length
    return size


def _files(parameters: Iterable[Parameter]) -> list[str]:
    return sorted({str(parameter.entry.path) for parameter in parameters})


def as_text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['path']}: {facts['family'] or 'not a model that runs'}"]
    if facts["problem"]:
        lines.append(f"  problem: {facts['problem']}")
    for part, about in facts["parts"].items():
        dtypes = ", ".join(f"{n} {dtype}" for dtype, n in about["dtypes"].items())
        lines.append(
            f"  {part}: {about['parameters'] / 1e6:.1f} M parameters, "
            f"{about['bytes'] / 1e6:.1f} MB, {about['tensors']} tensors ({dtypes})"
        )
        lines += [f"    {key}: {value}" for key, value in about["config"].items()]
    for kind in ("ignored", "unknown"):
        if facts[kind]:
            lines.append(f"  {kind}: {len(facts[kind])} tensors")
            lines += [f"    {name}" for name in facts[kind]]
    return "\n".join(lines)
