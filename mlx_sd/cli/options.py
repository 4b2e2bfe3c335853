"""Options that several commands share, and how values reach the library."""

from collections.abc import Callable
from typing import Any

import click

from ..pipeline import DTYPES

PARTS = {
    "--diffusion-model": "a UNet",
    "--clip_l": "a first text encoder (CLIP-L, or SD 2.x's OpenCLIP-H)",
    "--clip_g": "a second text encoder (OpenCLIP-bigG)",
    "--vae": "a VAE",
}


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which model to open, and how."""
    for option in (
        click.option(
            "--dtype",
            type=click.Choice(list(DTYPES)),
            help="Type to compute in.  [default: f32 on a CPU, f16 on a GPU]",
        ),
        click.option(
            "-m",
            "--model",
            metavar="MODEL",
            help="A weight file, a diffusers folder, or a Hugging Face id.  "
            "[default: the small picture-book model in this package]",
        ),
    ):
        command = option(command)
    return command


def part_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Parts of a model in files of their own; each takes the place of the model's."""
    for name, part in reversed(PARTS.items()):
        command = click.option(
            name,
            metavar="FILE",
            help=f"File or folder of {part} instead of the model's.",
        )(command)
    return command
