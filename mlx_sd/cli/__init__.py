"""The command `mlx-sd`: it parses, calls the library, and prints."""

import logging
from importlib import import_module
from itertools import pairwise
from typing import Any

import click

from .._version import __version__
from ..errors import ConfigError, SDError

# Command, in a module of its own name → its first line of help, which is repeated here
# so that `mlx-sd --help` need not import the whole library.
COMMANDS = {
    "bench": "Time the networks at their real sizes, on random weights.",
    "convert": "Write the model SRC to DST; its path goes to stdout.",
    "generate": "Paint pictures from a prompt; their paths go to stdout.",
    "info": "Print versions, device, memory, and the BLAS in use with its speed.",
    "inspect": "Say what MODEL holds, without reading its tensors.",
    "metadata": "Say how the picture in FILE was made.",
}


class Cli(click.Group):
    """Turns every error into one line on stderr, here and nowhere else.

    The exit code is 2 for misuse of the command line, and 1 for any other SDError.
    As in stable-diffusion.cpp, options without a command are those of `generate`, and
    `-M convert` is the command `convert`.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return getattr(import_module(f".{cmd_name}", __name__), cmd_name)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

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
