"""safetensors files."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ...errors import CheckpointError
from .entry import MAX_TENSORS, Entry, map_bytes, reason

# The library takes 100 MB, for which Python would need 2 GB; SDXL's has 0.3 MB, and
# what trainers write beside a LoRA's tensors a few.
_MAX_HEADER = 10 << 20


def read_safetensors(path: Path) -> dict[str, Entry]:
    """The tensors of one file, by name; only the header is read.

    Raises: CheckpointError for a file that is missing, truncated or malformed: the
        safetensors library checks the header and that it covers the file exactly.
    """
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > _MAX_HEADER:
                raise ValueError(f"its header would have {size / 1e6:.0f} MB")
            text = file.read(size)
            if text.count(b"{") > MAX_TENSORS:
                raise ValueError(f"it describes more than {MAX_TENSORS} tensors")
            with safe_open(path, framework="numpy"):
                pass
            header = json.loads(text, object_pairs_hook=_once)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({reason(error)}); "
            "download or copy it again"
        ) from error
    header.pop("__metadata__", None)
    return {
        name: _entry(path, name, fields, data_start=8 + size)
        for name, fields in header.items()
    }


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says of itself; {} if it is missing or of another kind."""
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which the library would take the last of two equal keys."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name is in its header twice")
    return fields


def _entry(path: Path, name: str, fields: dict, data_start: int) -> Entry:
    begin, end = fields["data_offsets"]
    shape, dtype = tuple(fields["shape"]), fields["dtype"]
    raw = partial(map_bytes, path, name, data_start + begin, end - begin)
    return Entry(path, name, dtype, shape, end - begin, raw)
