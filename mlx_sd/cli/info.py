"""`mlx-sd info`: what this program runs on."""

import click

from .. import backend


@click.command()
def info() -> None:
    """Print versions, device, memory, and the BLAS in use with its speed."""
    for key, value in backend.describe().items():
        click.echo(f"{key}: {value}")
