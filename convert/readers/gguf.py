"""GGUF files: a header of metadata and tensor descriptions, then the tensors' bytes.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ..dtypes import DTYPES
from ..ggml import TYPE_IDS
from .entry import Entry, map_bytes, reason

# Far above anything in use, and low enough that no header takes long. A language model
# has some 15 MB, for its vocabulary; an image model has a few thousand tensors.
_HEADER_LIMIT = 2**25  # bytes
_COUNT_LIMIT = 2**15  # of tensors, pieces of metadata, bytes of a name
_AXES_LIMIT = 4  # of ggml
_SHORT_ARRAY = 16  # enough for a shape

_STRING, _ARRAY = 8, 9
_SCALARS = {
    kind: struct.Struct("<" + code)
    for kind, code in (*enumerate("BbHhIif?"), (10, "Q"), (11, "q"), (12, "d"))
}
_UINT32, _UINT64 = _SCALARS[4], _SCALARS[10]
_DESCRIPTIONS = [struct.Struct(f"<{axes}QIQ") for axes in range(_AXES_LIMIT + 1)]
_TYPE_NAMES = {number: name for name, number in TYPE_IDS.items()}


def read_gguf(path: Path) -> dict[str, Entry]:
    """The tensors of one file, by name; only the header is read.

    Shapes are in torch's order. stable-diffusion.cpp leaves out torch's leading axes of
    length 1. ComfyUI-GGUF flattens some tensors, but says their shape, which is ours.

    Raises: CheckpointError for a file that is missing, truncated or malformed, has a
        tensor that overlaps another or lies beyond the end, or one of unknown type.
    """
    try:
        with open(path, "rb") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _entries(_Header(path, data))
    except (OSError, ValueError) as error:  # ValueError: an empty file has no map
        raise _broken(path, reason(error)) from error


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a readable GGUF file ({what}); download or copy it again"
    )


class _Header:
    """A file's first bytes, taken one after another."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path = path
        self.data = data
        self.at = 0
        self.end = min(len(data), _HEADER_LIMIT)

    def broken(self, what: str) -> CheckpointError:
        return _broken(self.path, what)

    def skip(self, count: int) -> int:
        """Go on by some bytes; returns where they begin."""
        start = self.at
        if count > self.end - start:
            raise self._too_long(start)
        self.at += count
        return start

    def _too_long(self, at: int) -> CheckpointError:
        if self.end < len(self.data):
            return self.broken(f"its header has more than {_HEADER_LIMIT} bytes")
        return self.broken(f"it ends within its header, in what begins at byte {at}")

    def numbers(self, layout: struct.Struct) -> tuple:
        return layout.unpack_from(self.data, self.skip(layout.size))

    def number(self, layout: struct.Struct = _UINT64) -> Any:
        return self.numbers(layout)[0]

    def count(self, what: str) -> int:
        count = self.number()
        if count > _COUNT_LIMIT:
            raise self.broken(f"{count} {what} at byte {self.at - 8} are too many")
        return count

    def name(self) -> str:
        start = self.skip(self.count("bytes of a name"))
        try:
            return self.data[start : self.at].decode()
        except UnicodeDecodeError as error:
            raise self.broken(f"the name at byte {start} is not in UTF-8") from error

    def value(self) -> Any:
        """A piece of metadata; None for texts and for all but short arrays."""
        kind = self.number(_UINT32)
        if kind == _ARRAY:
            return self._array()
        if kind == _STRING:
            self._skip_strings(1)
            return None
        return self.number(self._scalar(kind))

    def _array(self) -> tuple | None:
        kind, count = self.number(_UINT32), self.number()
        if kind == _STRING:
            self._skip_strings(count)
            return None
        scalar = self._scalar(kind)
        start = self.skip(count * scalar.size)
        if count > _SHORT_ARRAY:
            return None
        return struct.unpack_from(f"<{count}{scalar.format[1]}", self.data, start)

    def _scalar(self, kind: int) -> struct.Struct:
        if kind not in _SCALARS:
            raise self.broken(f"metadata before byte {self.at} has unknown type {kind}")
        return _SCALARS[kind]

    def _skip_strings(self, count: int):
        """A loop of its own, as a vocabulary has hundreds of thousands."""
        at, last = self.at, self.end - _UINT64.size
        for _ in range(count):
            if at > last:
                raise self._too_long(at)
            at += _UINT64.size + _UINT64.unpack_from(self.data, at)[0]
        self.skip(at - self.at)


@dataclass(frozen=True)
class _Tensor:
    """As the header describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # in torch's order
    nbytes: int
    offset: int  # from where the tensors begin

    def __str__(self) -> str:
        return _quoted(self.name)


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:100]}...")


def _entries(header: _Header) -> dict[str, Entry]:
    _check_version(header)
    count, pieces = header.count("tensors"), header.count("pieces of metadata")
    metadata: dict[str, Any] = {}
    for _ in range(pieces):
        key = header.name()
        if key in metadata:
            raise header.broken(f"metadata {_quoted(key)} is there twice")
        metadata[key] = header.value()
    tensors: dict[str, _Tensor] = {}
    for _ in range(count):
        tensor = _tensor(header)
        if tensor.name in tensors:
            raise header.broken(f"tensor {tensor} is there twice")
        tensors[tensor.name] = tensor
    start = _data_start(header, metadata.get("general.alignment", 32), tensors)
    return {
        name: Entry(
            header.path,
            name,
            tensor.dtype,
            _shape(header, tensor, metadata),
            tensor.nbytes,
            partial(map_bytes, header.path, name, start + tensor.offset, tensor.nbytes),
        )
        for name, tensor in tensors.items()
    }


def _check_version(header: _Header):
    if header.data[:4] != b"GGUF":
        raise header.broken("it does not begin with GGUF")
    header.skip(4)
    version = header.number(_UINT32)
    if version and version % 2**16 == 0:
        raise CheckpointError(
            f"{header.path}: a GGUF file for big-endian machines; "
            "take or make a little-endian one"
        )
    if version not in (2, 3):
        raise CheckpointError(
            f"{header.path}: GGUF of version {version}; readable are 2 and 3"
        )


def _tensor(header: _Header) -> _Tensor:
    start = header.at
    name = header.name()

    def broken(what: str) -> CheckpointError:
        return header.broken(f"tensor {_quoted(name)} at byte {start} {what}")

    axes = header.number(_UINT32)
    if axes > _AXES_LIMIT:
        raise broken(f"has {axes} axes, and ggml at most {_AXES_LIMIT}")
    *lengths, number, offset = header.numbers(_DESCRIPTIONS[axes])
    shape = tuple(lengths[::-1])  # stored innermost first
    if 0 in shape:
        raise broken("has an axis of length 0")
    if number not in _TYPE_NAMES:
        raise CheckpointError(
            f"{header.path}: tensor {_quoted(name)} has type {number}, which is "
            f"withdrawn or unknown; readable are {', '.join(TYPE_IDS)}"
        )
    dtype = _TYPE_NAMES[number]
    block, size = DTYPES[dtype].block, DTYPES[dtype].size
    if (shape[-1] if shape else 1) % block:
        raise broken(f"is {dtype}, but {block} does not divide its rows")
    return _Tensor(name, dtype, shape, prod(shape) // block * size, offset)


def _data_start(header: _Header, alignment: Any, tensors: dict[str, _Tensor]) -> int:
    """Where the tensors begin, once each is known to lie in the file and by itself."""
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise header.broken(f"its alignment is {alignment!r}, not a power of two")
    start = -(-header.at // alignment) * alignment
    end, before = 0, None
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.offset % alignment:
            raise header.broken(
                f"{tensor} begins {tensor.offset} bytes after the header, "
                f"not at a multiple of {alignment}"
            )
        if tensor.offset < end:
            raise header.broken(f"{before} and {tensor} overlap")
        end, before = tensor.offset + tensor.nbytes, tensor
        if start + end > len(header.data):
            raise header.broken(
                f"{tensor} ends at byte {start + end}, the file at {len(header.data)}"
            )
    return start


def _shape(
    header: _Header, tensor: _Tensor, metadata: dict[str, Any]
) -> tuple[int, ...]:
    """The tensor's, or what ComfyUI-GGUF says that it was, also in torch's order."""
    original = metadata.get(f"comfy.gguf.orig_shape.{tensor.name}", tensor.shape)
    if not (
        isinstance(original, tuple)
        and all(isinstance(length, int) and length > 0 for length in original)
        and prod(original) == prod(tensor.shape)
    ):
        raise header.broken(
            f"{tensor} of shape {list(tensor.shape)} cannot have had "
            f"{_quoted(str(original))} as its original shape"
        )
    return original
