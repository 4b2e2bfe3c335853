"""What a file says of how its picture was made, whoever painted it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .chunks import Text


@dataclass(frozen=True)
class Recipe:
    """How a picture was made."""

    program: str  # "mlx-sd", "stable-diffusion.cpp", "A1111" or "ComfyUI"
    prompt: str
    negative_prompt: str
    settings: dict[str, str]  # by A1111's labels
    exact: dict[str, Any] = field(default_factory=dict)  # Request's fields, if told
    loading: dict[str, Any] = field(default_factory=dict)  # load()'s arguments, if told
    pictures: tuple[
        str, ...
    ] = ()  # Request's fields that held one, if told or inferred
    notes: tuple[str, ...] = ()  # what could not be followed or read


@dataclass(frozen=True)
class Metadata:
    """The texts of a file, and the recipe that they hold, if they hold one."""

    path: Path
    format: str  # "PNG", "JPEG" or "WebP"
    texts: tuple[Text, ...]
    recipe: Recipe | None
