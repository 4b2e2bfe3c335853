"""safetensors files and sharded sets of them."""

import json
import struct
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ...errors import CheckpointError
from .entry import Entry, map_bytes, reason


def read_safetensors(path: Path) -> dict[str, Entry]:
    """The tensors of one file, by name; only the header is read.

    Raises: CheckpointError for a file that is missing, truncated or malformed: the
        safetensors library checks the header and that it covers the file exactly.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({reason(error)}); "
            "download or copy it again"
        ) from error
    header.pop("__metadata__", None)
    return {
        name: _entry(path, name, fields, data_start=8 + size)
        for name, fields in header.items()
    }


def read_index(path: Path) -> dict[str, Entry]:
    """The tensors of the shards that a `*.safetensors.index.json` names.

    Raises: CheckpointError if the index is malformed, or a shard or a tensor in it is
        missing.
    """
    try:
        weight_map = json.loads(path.read_text())["weight_map"]
        names = sorted(set(weight_map.values()))
        files = [path.parent / name for name in names]
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors index ({reason(error)}); "
            "download or copy it again"
        ) from error
    entries: dict[str, Entry] = {}
    shards = {n: read_safetensors(f) for n, f in zip(names, files, strict=True)}
    for shard in shards.values():
        entries |= shard  # with any that the index forgets
    for name, shard_name in weight_map.items():
        if name not in shards[shard_name]:
            raise CheckpointError(
                f"{path}: {name} is not in {shard_name}, where the index says; "
                "download the shards again"
            )
        entries[name] = shards[shard_name][name]
    return entries


def _entry(path: Path, name: str, fields: dict, data_start: int) -> Entry:
    begin, end = fields["data_offsets"]
    shape, dtype = tuple(fields["shape"]), fields["dtype"]
    raw = partial(map_bytes, path, name, data_start + begin, end - begin)
    return Entry(path, name, dtype, shape, end - begin, raw)
