"""`mlx-sd convert`: a model in another format, type or naming."""

import logging
from typing import Any

import click
from tqdm import tqdm

from ..convert import convert as convert_model
from ..convert.rules.outgoing import SCHEMES
from ..convert.type_rules import TYPES
from ..errors import SDError
from ..opening import OPTIONS
from .options import Choice, part_options, type_options


@click.command()
@click.argument("src", metavar="[SRC]", required=False)
@click.argument("dst", metavar="DST", required=False)
@type_options(
    TYPES,
    "Store weights as this; a .safetensors file or a folder holds f32, f16 and bf16.  "
    "[default: as they are stored now]",
)
@click.option(
    "--names",
    type=Choice(list(SCHEMES)),
    help="How a file names its tensors.  [default: ldm]",
)
@click.option("--force", is_flag=True, help="Replace what is at DST.")
# As stable-diffusion.cpp's -M convert has them.
@click.option("-m", "--model", hidden=True)
@click.option("-o", "--output", hidden=True)
@click.option("-v", "--verbose", is_flag=True, hidden=True)
@part_options
def convert(
    src: str | None,
    dst: str | None,
    model: str | None,
    output: str | None,
    verbose: bool,
    **options: Any,
) -> None:
    """Write the model SRC to DST; its path goes to stdout.

    SRC is a weight file, a diffusers folder, or a Hugging Face id, and may be left out
    if its parts are given. DST is a .safetensors or .gguf file, or a new folder for
    diffusers.

    As in stable-diffusion.cpp, biases, embeddings and tensors whose rows are no whole
    blocks keep the type that they have; norm weights are never quantised either. Left
    out is what only training needs, with a notice.

    \b
    mlx-sd convert dreamshaper_8.safetensors dreamshaper_8-q8_0.gguf --type q8_0
    mlx-sd convert old.ckpt new.safetensors --type f16
    mlx-sd convert dreamshaper_8.safetensors dreamshaper_8/
    """
    if model is not None or output is not None:
        if src is not None:
            raise click.UsageError("name SRC and DST, or -m and -o, not both")
        src, dst = model, output
    elif dst is None:
        src, dst = None, src
    if dst is None or (src is None and not any(options[part] for part in OPTIONS)):
        raise click.UsageError("name what to convert, and the file or folder to write")
    logging.getLogger("mlx_sd").setLevel(logging.DEBUG if verbose else logging.INFO)
    # Shown from the first byte on, below what there is to say before.
    with tqdm(unit="B", unit_scale=True, delay=0.01) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            convert_model(src, dst, on_progress=show, **options)
        except KeyboardInterrupt:
            raise SDError("stopped; nothing was written") from None
    click.echo(dst)
