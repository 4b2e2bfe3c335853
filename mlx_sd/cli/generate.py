"""`mlx-sd generate`: a picture from a prompt."""

import logging
import time
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from .. import backend
from ..errors import SDError
from ..image import check_writable
from ..pipeline import Picture, Pipeline, load
from ..request import Request
from ..sampling.noise import RNGS
from ..sampling.samplers import SAMPLERS
from ..sampling.schedules import SCHEDULES
from .options import LOADING, model_options, part_options

DEFAULT = Request(prompt="")


@click.command()
@model_options
@part_options
@click.option("-p", "--prompt", required=True, help="What to paint.")
@click.option("-n", "--negative-prompt", default="", help="What to keep away from.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="output.png",
    show_default=True,
    help="PNG file to write; several pictures are numbered output_0.png …",
)
@click.option("-W", "--width", type=int, help="Pixels.  [default: the model's size]")
@click.option("-H", "--height", type=int, help="Pixels.  [default: the model's size]")
@click.option(
    "--steps", default=DEFAULT.steps, show_default=True, help="Denoising steps."
)
@click.option(
    "--cfg-scale",
    default=DEFAULT.cfg_scale,
    show_default=True,
    help="How closely to follow the prompt; 1 ignores the negative prompt.",
)
@click.option(
    "-s",
    "--seed",
    default=DEFAULT.seed,
    show_default=True,
    help="Start of the random numbers; -1 draws one and reports it.",
)
@click.option(
    "-b",
    "--batch-count",
    default=DEFAULT.batch_count,
    show_default=True,
    help="Pictures to make; picture i has seed + i.",
)
@click.option(
    "--sampling-method",
    type=click.Choice(list(SAMPLERS)),
    default=DEFAULT.sampling_method,
    show_default=True,
)
@click.option(
    "--scheduler",
    type=click.Choice(list(SCHEDULES)),
    default=DEFAULT.scheduler,
    show_default=True,
)
@click.option(
    "--rng",
    type=click.Choice(list(RNGS)),
    default=DEFAULT.rng,
    show_default=True,
    help="Random numbers: cuda is A1111's and stable-diffusion.cpp's default.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but paths and errors.")
def generate(
    model: str | None, output: Path, verbose: bool, quiet: bool, **options: Any
) -> None:
    """Paint pictures from a prompt; their paths go to stdout.

    \b
    mlx-sd generate -p "a red house and a green tree under a night sky"
    mlx-sd generate -m dreamshaper_8.safetensors -p "a lighthouse, oil painting"
    """
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("mlx_sd").setLevel(level)
    loading = {name: options.pop(name) for name in LOADING}
    request = Request(**options)
    start = time.perf_counter()
    if output.suffix.lower() != ".png" and not output.is_dir():
        output = output.with_name(output.name + ".png")
    paths = [output]
    if request.batch_count > 1:
        paths = [
            output.with_stem(f"{output.stem}_{i}") for i in range(request.batch_count)
        ]
    for path in paths:
        check_writable(path)
    pipeline = load(model, **loading)
    request = pipeline.resolve(request)
    if options["seed"] < 0 and not quiet:
        click.echo(f"seed {request.seed}", err=True)
    try:
        paint(pipeline, request, paths, quiet)
    except KeyboardInterrupt:
        raise SDError("stopped; no picture was left half-written") from None
    if not quiet:
        seconds = time.perf_counter() - start
        click.echo(f"{seconds:.1f} s on {backend.device_name()}", err=True)


def paint(pipeline: Pipeline, request: Request, paths: list[Path], quiet: bool) -> None:
    """Run the request under a progress bar, saving each picture as it comes."""
    total = request.steps * request.batch_count
    remaining = iter(paths)
    with tqdm(total=total, unit="it", disable=quiet, leave=True) as bar:
        for event in pipeline.stream(request):
            if isinstance(event, Picture):
                bar.close()
                path = next(remaining)
                event.save(path)
                click.echo(path)
            else:
                bar.update()
