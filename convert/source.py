"""What a conversion wants to know of a model; Source of mlx_sd/source.py is one."""

from pathlib import Path
from typing import Any, Protocol

from .detect import Contents
from .kinds import Kind


class Source(Protocol):
    path: Path
    contents: Contents
    folder: Path | None  # of diffusers, if the model comes from one

    @property
    def kind(self) -> Kind:
        """Raises: CheckpointError if there is no UNet."""
        ...

    def config(self, part: str) -> Any:
        """Raises: CheckpointError for a part that is not whole."""
        ...
