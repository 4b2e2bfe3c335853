"""Stable Diffusion on MLX."""

from importlib import import_module
from typing import TYPE_CHECKING

from . import backend

backend.setup()  # before anything computes

from ._version import __version__  # noqa: E402

if TYPE_CHECKING:
    from .errors import CheckpointError, ConfigError, SDError
    from .pipeline import Picture, Pipeline, Progress, load
    from .request import Request

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Picture",
    "Pipeline",
    "Progress",
    "Request",
    "SDError",
    "__version__",
    "load",
]

# Each is imported when first asked for, so that `mlx-sd --help` need not wait for all.
_HOMES = {
    "errors": ("CheckpointError", "ConfigError", "SDError"),
    "pipeline": ("Picture", "Pipeline", "Progress", "load"),
    "request": ("Request",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "convert":  # a package, which Python puts here once it is imported
        return import_module(".convert", __name__)
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "convert"]
