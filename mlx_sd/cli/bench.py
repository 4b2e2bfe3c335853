"""`mlx-sd bench`: how fast this machine paints."""

import click

from .. import backend
from .._version import __version__
from ..bench import bench as timings


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--large",
    is_flag=True,
    help="SDXL, eight pictures at once and 1024x1024 too; wants 16 GB of memory.",
)
def bench(runs: int, large: bool) -> None:
    """Time the networks at their real sizes, on random weights.

    The table is Markdown, to be pasted into an issue. On a CPU it takes minutes.
    """
    facts = backend.describe()
    click.echo(f"mlx-sd {__version__}; {facts['MLX']}; {facts['Device']}")
    click.echo(f"{facts['Python']}; memory {facts['Memory']}")
    click.echo(f"BLAS {facts['BLAS']}; median of {runs} runs\n")
    click.echo("| work | time | peak memory |\n|---|---|---|")
    for timing in timings(runs, large):
        seconds = timing.seconds
        shown = f"{seconds:.2f} s" if seconds > 1 else f"{1e3 * seconds:.1f} ms"
        click.echo(f"| {timing.work} | {shown} | {timing.peak / 1e9:.2f} GB |")
