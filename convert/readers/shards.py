"""A model in several files, and the index that names them."""

import json
from collections.abc import Callable
from pathlib import Path

from ...errors import CheckpointError
from .entry import MAX_TENSORS, Entry, reason

_MAX_INDEX = 4 << 20  # bytes, at some 100 per tensor
_MALFORMED = (ValueError, TypeError, AttributeError, KeyError, RecursionError, OSError)


def read_shards(
    path: Path, read: Callable[[Path], dict[str, Entry]]
) -> dict[str, Entry]:
    """The tensors of the shards that an `*.index.json` names, each read with `read`.

    Raises: CheckpointError if the index is malformed, or a shard or a tensor in it is
        missing.
    """
    weight_map = _weight_map(path)
    shards: dict[str, dict[str, Entry]] = {}
    for name in sorted(set(weight_map.values())):
        shards[name] = read(path.parent / name)
        if sum(map(len, shards.values())) > MAX_TENSORS:
            raise CheckpointError(
                f"{path}: its shards hold more than {MAX_TENSORS} tensors in all; "
                "is it the right file?"
            )
    entries: dict[str, Entry] = {}
    for shard_name, shard in shards.items():
        for name, entry in shard.items():  # with any that the index forgets
            other = entries.setdefault(name, entry)
            if other is not entry and name not in weight_map:
                raise CheckpointError(
                    f"{path}: {name[:100]!r} is in {other.path.name} and in "
                    f"{shard_name}, and the index does not say which counts; "
                    "download the shards again"
                )
    for name, shard_name in weight_map.items():
        if name not in shards[shard_name]:
            raise CheckpointError(
                f"{path}: {name[:100]!r} is not in {shard_name}, where the index says; "
                "download the shards again"
            )
        entries[name] = shards[shard_name][name]
    return entries


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor → shard, as the index says."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_INDEX + 1)
        if len(text) > _MAX_INDEX:
            raise ValueError(f"longer than {_MAX_INDEX} bytes")
        weight_map: dict[str, str] = json.loads(text)["weight_map"]
        if not all(map(_is_file_name, set(weight_map.values()))):
            raise ValueError("a shard is not a file beside it")
        return weight_map
    except _MALFORMED as error:
        raise CheckpointError(
            f"{path}: not a readable index of a model in several files "
            f"({reason(error)}); download or copy it again"
        ) from error


def _is_file_name(name: str) -> bool:
    known = name == Path(name).name and name not in ("", "..")
    return known and name.isprintable() and len(name) < 256
