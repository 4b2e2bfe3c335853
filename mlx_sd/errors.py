"""What can go wrong for a user, as one line that says where, what and what next."""

import difflib
from collections.abc import Iterable


class SDError(Exception):
    """Any failure that the user can act on; the CLI prints it and exits with 1."""


class ConfigError(SDError):
    """A request or a model configuration that cannot work."""


class CheckpointError(SDError):
    """A weight file or model folder that is missing, broken or not understood."""


def unknown(kind: str, name: object, known: Iterable[str]) -> ConfigError:
    """The error for a name that is none of `known`, with the nearest one or all."""
    names = list(known)
    near = difflib.get_close_matches(str(name).lower(), names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"unknown {kind} {name!r:.100}; {hint}")
