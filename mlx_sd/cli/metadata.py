"""`mlx-sd metadata`: how a picture was made, as its file says."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..errors import SDError
from ..metadata import Metadata, Recipe, read, to_request_fields

# Escapes keep a file's text from steering the terminal.
_SHOWN = {
    c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"
}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all texts.")
def metadata(file: Path, as_json: bool) -> None:
    """Say how the picture in FILE was made.

    FILE is a PNG, JPEG or WebP of this program, stable-diffusion.cpp, A1111 or ComfyUI.
    What `generate` could not repeat, given the pictures that it was made from, is
    listed. The exit code is 1 if the file says
    nothing of how it was painted; --json then still lists its texts.
    """
    found = read(file)
    if as_json:
        click.echo(json.dumps(describe(found), indent=2))
    elif found.recipe is not None:
        click.echo(as_text(found.recipe))
    if found.recipe is None:
        more = "; --json lists its other texts" if found.texts and not as_json else ""
        raise SDError(f"{file}: says nothing of how it was painted{more}")


def describe(found: Metadata) -> dict[str, Any]:
    """Everything the file says, as JSON-able values."""
    facts: dict[str, Any] = {"path": str(found.path), "format": found.format}
    if found.recipe is not None:
        request, lost = to_request_fields(found.recipe, found.recipe.pictures)
        facts |= {
            "program": found.recipe.program,
            "prompt": found.recipe.prompt,
            "negative_prompt": found.recipe.negative_prompt,
            "settings": found.recipe.settings,
            "request": request,
            "pictures": found.recipe.pictures,
            "loading": found.recipe.loading,
            "not_repeated": lost,
        }
    return facts | {"texts": [asdict(text) for text in found.texts]}


def as_text(recipe: Recipe) -> str:
    _, lost = to_request_fields(recipe, recipe.pictures)
    lines = [f"painted by: {recipe.program}", f"prompt: {recipe.prompt}"]
    if recipe.negative_prompt:
        lines.append(f"negative prompt: {recipe.negative_prompt}")
    lines += [f"{label}: {value}" for label, value in recipe.settings.items()]
    lines += [f"made from a picture: {name}" for name in recipe.pictures]
    lines += [f"cannot be repeated: {entry}" for entry in lost]
    text = "\n".join(lines).translate(_SHOWN)
    return text.encode("utf-8", "backslashreplace").decode()
