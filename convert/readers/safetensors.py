"""safetensors files and sharded sets of them."""

import json
import struct
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open

from ...errors import CheckpointError
from .entry import Entry

# How the bytes are read, and the MLX type of the result. NumPy has no bfloat16.
DTYPES: dict[str, tuple[str, mx.Dtype]] = {
    "F32": ("<f4", mx.float32),
    "F16": ("<f2", mx.float16),
    "BF16": ("<u2", mx.bfloat16),
    "I64": ("<i8", mx.int64),
    "I32": ("<i4", mx.int32),
    "U8": ("u1", mx.uint8),
}


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
            f"{path}: not a readable safetensors file ({_reason(error)}); "
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
            f"{path}: not a readable safetensors index ({_reason(error)}); "
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
    read = partial(_read, path, name, dtype, shape, data_start + begin)
    return Entry(path, name, dtype, shape, end - begin, read)


def _read(
    path: Path, name: str, dtype: str, shape: tuple[int, ...], offset: int
) -> mx.array:
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{path}: {name} has type {dtype}; readable are {', '.join(DTYPES)}"
        )
    stored, wanted = DTYPES[dtype]
    if 0 in shape:
        return mx.zeros(shape, wanted)
    # A map of this tensor alone, dropped once copied, keeps the file's pages out of
    # the process while hundreds of tensors are read one after another.
    try:
        data = np.memmap(path, dtype=stored, mode="r", offset=offset, shape=shape)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {name} cannot be read ({_reason(error)}); "
            "has the file changed since it was opened?"
        ) from error
    array = mx.array(np.asarray(data))
    return array.view(wanted) if wanted == mx.bfloat16 else array


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return (text or str(error) or type(error).__name__).splitlines()[0]
