"""The command `mlx-sd`: it parses, calls the library, and prints."""

import logging
from itertools import pairwise
from typing import Any

import click

from .._version import __version__
from ..errors import ConfigError, SDError
from .bench import bench
from .convert import convert
from .generate import generate
from .info import info
from .inspect import inspect
from .metadata import metadata


class Cli(click.Group):
    """Turns every error into one line on stderr, here and nowhere else.

    The exit code is 2 for misuse of the command line, and 1 for any other SDError.
    As in stable-diffusion.cpp, options without a command are those of `generate`, and
    `-M convert` is the command `convert`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ours = {name for param in self.get_params(ctx) for name in param.opts}
        if args and args[0].startswith("-") and args[0] not in ours:
            args = _with_command(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.ctx = None  # else click adds two lines of usage
            raise
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
        except SDError as error:
            raise click.ClickException(str(error)) from error


def _with_command(args: list[str]) -> list[str]:
    for i, pair in enumerate(pairwise(args)):
        if pair in (("-M", "convert"), ("--mode", "convert")):
            return ["convert", *args[:i], *args[i + 2 :]]
    return ["generate", *args]


class Notices(logging.Handler):
    """What the library has to say, one line each on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"mlx-sd: {self.format(record)}", err=True)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlx-sd")
def main() -> None:
    """Stable Diffusion on MLX: pictures from SD 1.x, 2.x and SDXL checkpoints."""
    logging.getLogger("mlx_sd").handlers = [Notices()]


main.add_command(generate)
main.add_command(inspect)
main.add_command(convert)
main.add_command(metadata)
main.add_command(info)
main.add_command(bench)
