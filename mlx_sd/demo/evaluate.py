"""Measure the bundled model: python -m mlx_sd.demo.evaluate --help

Paints prompts from scenes that were held out of training, reads every picture back
(see score.py) and prints the share of named attributes that are there.
"""

import itertools
from pathlib import Path

import click
import numpy as np

from .. import Request, load
from .captions import describe
from .report import contact_sheet, summary
from .scenes import stream
from .score import read, score

_SEED = 18  # of the prompts; training's own checks use the same


@click.command()
@click.option("--model", help="Folder of the model.  [default: the bundled one]")
@click.option("--prompts", default=208, show_default=True, help="How many to paint.")
@click.option("--steps", default=20, show_default=True)
@click.option("--cfg-scale", default=7.0, show_default=True)
@click.option("--sampling-method", default="euler_a", show_default=True)
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PNG to write: the first 64 pictures, what is missing in red.",
)
def main(
    model: str | None,
    prompts: int,
    steps: int,
    cfg_scale: float,
    sampling_method: str,
    sheet: Path | None,
) -> None:
    """Paint held-out prompts and count the attributes that are there."""
    pipeline = load(model)
    images, asked, results = [], [], []
    for seed, (scene, rng) in enumerate(
        itertools.islice(stream(_SEED, held=True), prompts)
    ):
        caption = describe(scene, rng)
        request = Request(
            prompt=caption.text,
            seed=seed,
            steps=steps,
            cfg_scale=cfg_scale,
            sampling_method=sampling_method,
        )
        image = pipeline(request)[0]
        images.append(image)
        asked.append((scene, caption))
        results.append(score(read(np.asarray(image)), scene, caption))
        if len(images) % 16 == 0:
            click.echo(f"{len(images)} of {prompts}: {summary(results)}", err=True)
    click.echo(summary(results))
    if sheet:
        contact_sheet(images[:64], asked, results).save(sheet)


if __name__ == "__main__":
    main()
