"""Stable Diffusion on MLX."""

from . import backend

backend.setup()  # before anything computes

from ._version import __version__  # noqa: E402
from .errors import CheckpointError, ConfigError, SDError  # noqa: E402
from .pipeline import Picture, Pipeline, Progress, load  # noqa: E402
from .request import Request  # noqa: E402

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
