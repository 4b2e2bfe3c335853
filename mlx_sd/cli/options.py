"""Options that several commands share, and how values reach the library."""

from collections.abc import Callable
from typing import Any

import click

from ..pipeline import DTYPES


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which model to open, and how."""
    for option in (
        click.option(
            "--dtype",
            type=click.Choice(list(DTYPES)),
            help="Type to compute in.  [default: f32 on a CPU, f16 on a GPU]",
        ),
        click.option(
            "--vae",
            metavar="FILE",
            help="File or folder whose VAE replaces the model's.",
        ),
        click.option(
            "-m",
            "--model",
            metavar="MODEL",
            help="A .safetensors file, a diffusers folder, or a Hugging Face id.  "
            "[default: the small picture-book model in this package]",
        ),
    ):
        command = option(command)
    return command
