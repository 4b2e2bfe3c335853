"""Readers: a file → its tensors by name, described at once and read when asked."""

from pathlib import Path

from ...errors import CheckpointError
from .entry import MAX_NAME, Entry, reason
from .gguf import read_gguf
from .pytorch import read_legacy, read_zip
from .safetensors import read_metadata, read_safetensors
from .scales import fold_scales
from .shards import read_shards

__all__ = ["Entry", "read_file", "read_metadata"]


def read_file(path: Path) -> dict[str, Entry]:
    """The tensors of a weight file, whose kind its content tells.

    Scaled weights come with their scales, which then are no tensors of their own.

    Raises: CheckpointError if the file is missing, of an unknown kind, or broken.
    """
    head = _head(path)
    is_index = b"\0" not in head[:8] and head.lstrip().startswith(b"{")
    entries = read_shards(path, _read_one) if is_index else _read_one(path)
    if not entries:
        raise CheckpointError(f"{path}: no tensors in it; is it the right file?")
    for name in entries:
        if not name.isprintable() or not 0 < len(name) <= MAX_NAME:
            raise CheckpointError(
                f"{path}: a tensor is named {name[:100]!r}, which is no proper name; "
                "download or copy the file again"
            )
    return fold_scales(entries)


def _read_one(path: Path) -> dict[str, Entry]:
    head = _head(path)
    if head.startswith(b"GGUF"):
        return read_gguf(path)
    if head.startswith(b"PK\3\4"):
        return read_zip(path)
    if head[8:9] == b"{":  # after the length of the header
        return read_safetensors(path)
    if head.startswith(b"\x80"):  # which begins a pickle
        return read_legacy(path)
    raise CheckpointError(f"{path}: {_unreadable(head)}")


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({reason(error)}); check the path and who may "
            "read it"
        ) from error


def _unreadable(head: bytes) -> str:
    """What a file is instead of weights, and what to do."""
    text = head.lstrip().lower()
    if not text:
        return "is empty; download or copy it again"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, which stands for the file; fetch that: git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not weights; download it again, maybe after logging in"
    return (
        "not a weight file that we can read; readable are safetensors, PyTorch "
        "checkpoints, GGUF, and the index.json of a model in several files"
    )
