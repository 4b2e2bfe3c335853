"""Readers: a file → its tensors by name, described at once and read when asked."""

from pathlib import Path

from ...errors import CheckpointError
from .entry import Entry
from .safetensors import read_index, read_safetensors

__all__ = ["Entry", "read_file"]


def read_file(path: Path) -> dict[str, Entry]:
    """The tensors of a weight file.

    Raises: CheckpointError if the file is missing, of an unknown kind, or broken.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if ".safetensors.index" in path.name and path.suffix == ".json":
        entries = read_index(path)
    elif path.suffix in (".safetensors", ".sft"):
        entries = read_safetensors(path)
    else:
        raise CheckpointError(
            f"{path}: unknown kind of weight file {path.suffix!r}; readable are "
            ".safetensors files and diffusers folders"
        )
    if not entries:
        raise CheckpointError(f"{path}: no tensors in it; is it the right file?")
    return entries
