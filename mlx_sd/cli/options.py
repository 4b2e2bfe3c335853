"""Options that several commands share, and how values reach the library."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ..backend import DTYPES
from ..errors import unknown
from ..opening import OPTIONS
from ..quantize import TYPES
from ..sampling.prediction import PREDICTIONS

PARTS = {
    "--diffusion-model": "a UNet",
    "--clip_l": "a first text encoder (CLIP-L, or SD 2.x's OpenCLIP-H)",
    "--clip_g": "a second text encoder (OpenCLIP-bigG)",
    "--vae": "a VAE",
    "--taesd --tae": "a quick and rough VAE (TAESD, TAESDXL)",
}

# What the decorators that open a model to paint give to the library's load().
LOADING = (
    *OPTIONS,
    "taesd_preview_only",
    "dtype",
    "type",
    "tensor_type_rules",
    "prediction",
    "embd_dir",
    "refiner",
    "low_memory",
)


class Choice(click.Choice[str]):
    """One of some names; an error says which is nearest."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            kind = param.opts[0] if param else "value"
            raise click.UsageError(str(unknown(kind, value, self.choices))) from error


def joined(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> str | None:
    """An option given several times, as stable-diffusion.cpp takes it: one list."""
    return ",".join(values) or None


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which model to open, and how."""
    for option in (
        click.option(
            "--embd-dir",
            type=click.Path(path_type=Path),
            help="Folder of textual inversion files; their names are words of a "
            "prompt.",
        ),
        click.option(
            "--refiner",
            metavar="MODEL",
            help="A model for the last steps, such as SDXL's refiner: see "
            "--refiner-switch.",
        ),
        click.option(
            "--prediction",
            type=Choice(list(PREDICTIONS)),
            help="What the UNet predicts.  [default: what the model's file tells]",
        ),
        click.option(
            "--low-memory",
            is_flag=True,
            help="Take less memory and more time: one text at a time, the UNet gone "
            "before pictures are decoded, in tiles.",
        ),
        type_options(
            TYPES,
            "Hold the weights of linear layers and convolutions in this; in q4_K and "
            "q5_K only those with rows of whole blocks of 256.  [default: as the file "
            "quantises them, f16 for blocks that MLX cannot compute with, else the "
            "type to compute in]",
        ),
        click.option(
            "--dtype",
            type=Choice(list(DTYPES)),
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


def type_options(
    types: Sequence[str], help: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One type for weights, and others for some of them by name."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        rules = click.option(
            "--tensor-type-rules",
            metavar="RULES",
            multiple=True,
            callback=joined,
            help='Types by name, as "regex=type,regex=type"; the first that is found '
            "in a tensor's name counts, before --type.",
        )
        choice = Choice(types, case_sensitive=False)
        return click.option("--type", type=choice, help=help)(rules(command))

    return add


def part_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Parts of a model in files of their own; each takes the place of the model's."""
    for names, part in reversed(PARTS.items()):
        command = click.option(
            *names.split(),
            metavar="FILE",
            help=f"File or folder of {part} instead of the model's.",
        )(command)
    return command
