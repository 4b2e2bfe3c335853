"""PyTorch checkpoints: a pickle that describes tensors, and their bytes beside it.

torch.save writes a zip file since 1.6: NAME/data.pkl is the pickle, NAME/data/KEY the
bytes of each storage, uncompressed, so that they can be mapped. Before, the legacy
format had one pickle after another: a magic number, a version, the machine, the object
and its storages' keys; then each storage, as its length in values and its bytes.
"""

import os
import zlib
from collections.abc import Callable
from functools import partial
from io import BufferedReader, FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from ...errors import CheckpointError
from ..dtypes import DTYPES
from .entry import Entry, map_bytes, reason
from .pickle import Storage, Tensor, name_tensors, read_tree
from .unpickle import MAX_BYTES, Pairs, Refused, Stream

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_ENCRYPTED, _UTF8 = 0x61, 0x800  # in a member's flags; its bytes, maybe by a patch
_MAX_REPEATED = 16 << 20  # bytes of a tensor that repeats a smaller storage

Offsets = dict[str, int]  # key of a storage → where its bytes begin in the file


def read_zip(path: Path) -> dict[str, Entry]:
    """The tensors of a zip file of torch.save, by name; only its pickle is read.

    Raises: CheckpointError for a file that is truncated or malformed, or whose pickle
        asks for more than tensors and plain containers.
    """
    return _read(path, _open_zip)


def read_legacy(path: Path) -> dict[str, Entry]:
    """As read_zip, of the format that torch.save had before 1.6."""
    return _read(path, _open_legacy)


def _read(
    path: Path, opened: Callable[[Path], tuple[Any, Offsets]]
) -> dict[str, Entry]:
    try:
        tree, offsets = opened(path)
        return {
            name: _entry(path, name, tensor, offsets)
            for name, tensor in name_tensors(tree).items()
        }
    except (Refused, OSError) as error:
        raise CheckpointError(
            f"{path}: not a readable PyTorch checkpoint ({reason(error)}); download or "
            "copy it again, or get it as a .safetensors file"
        ) from error


def _entry(path: Path, name: str, tensor: Tensor, offsets: Offsets) -> Entry:
    if tensor.nbytes > max(tensor.storage.nbytes, _MAX_REPEATED):
        raise Refused(
            f"{name} of shape {list(tensor.shape)} repeats a storage of "
            f"{tensor.storage.nbytes} bytes"
        )
    offset = offsets[tensor.storage.key] + tensor.start
    raw = (
        partial(map_bytes, path, name, offset, tensor.nbytes)
        if tensor.is_contiguous
        else partial(_gather, path, name, offset, tensor)
    )
    return Entry(path, name, tensor.dtype, tensor.shape, tensor.nbytes, raw)


def _gather(path: Path, name: str, offset: int, tensor: Tensor) -> np.ndarray:
    """The bytes of the values one after another, as in the file they are not."""
    size = DTYPES[tensor.dtype].size
    span = map_bytes(path, name, offset, tensor.span)
    strides = [stride * size for stride in tensor.strides]
    values = np.ndarray(tensor.shape, f"u{size}", span, strides=strides)
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


class _Guarded(FileIO):
    """A zip file that may lie about the size of its directory or its pickle."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_BYTES:
            raise Refused(f"its directory or pickle is longer than {MAX_BYTES} bytes")
        return super().read(size)


def _open_zip(path: Path) -> tuple[Any, Offsets]:
    with _Guarded(path) as file:
        listed, end = _directory(file)
        members = _members(listed, end)
        if "byteorder" in members:
            _check_little_endian(_content(file, members["byteorder"]) == b"little")
        tree, storages = read_tree(Stream(_content(file, members["data.pkl"])))
        return tree, _place_all(file, end, members, storages)


def _directory(file: FileIO) -> tuple[list[ZipInfo], int]:
    """The members of a zip file, and where their list begins."""
    try:
        archive = ZipFile(file)
    except (
        BadZipFile,  # no directory at the end, or one that is cut off
        NotImplementedError,  # a member for readers of a later version of the format
        UnicodeDecodeError,  # a member's name that says it is UTF-8, and is not
    ) as error:
        raise Refused(f"its zip directory is broken: {reason(error)}") from error
    return archive.infolist(), archive.start_dir


def _members(listed: list[ZipInfo], end: int) -> dict[str, ZipInfo]:
    """By name, without the folder that they are in; all begin before the end."""
    names = [info.filename.partition("/") for info in listed]
    folders = [folder for folder, _, name in names if name == "data.pkl"]
    if len(folders) != 1:
        raise Refused(f"a zip file with {len(folders)} pickles, instead of one")
    members = {
        name: info
        for (folder, _, name), info in zip(names, listed, strict=True)
        if folder == folders[0]
    }
    if len(members) < len(listed):
        raise Refused("a zip file with members in several folders, or of one name")
    if not all(0 <= info.header_offset < end for info in listed):
        raise Refused("a zip file with members beyond its end")
    return members


def _place_all(
    file: FileIO, end: int, members: dict[str, ZipInfo], storages: dict[str, Storage]
) -> Offsets:
    """Where each storage begins; they lie inside the file, apart from each other."""
    starts = [end, *(info.header_offset for info in members.values())]
    offsets, spans = {}, [(start, start) for start in starts]
    for key, storage in storages.items():
        info = members.get(f"data/{key}")
        if info is None or info.file_size < storage.nbytes:
            found = f"only {info.file_size} bytes of" if info else "nothing for"
            raise Refused(f"{found} its storage {key[:20]!r} of {storage.nbytes} bytes")
        offsets[key] = _place(file, info)
        spans.append((info.header_offset, offsets[key] + info.file_size))
    spans.sort()
    if any(end > start for (_, end), (start, _) in pairwise(spans)):
        raise Refused("its storages overlap or reach beyond the end of the file")
    return offsets


def _place(file: FileIO, info: ZipInfo) -> int:
    """Where a member's bytes begin: after a header of its own."""
    if info.compress_type != ZIP_STORED or info.file_size != info.compress_size:
        raise Refused(f"its member {info.filename[:100]!r} is compressed")
    if info.flag_bits & _ENCRYPTED:
        raise Refused(f"its member {info.filename[:100]!r} is encrypted")
    name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
    file.seek(info.header_offset)
    header = file.read(30 + len(name))
    length, extra = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
    if header[:4] != b"PK\3\4" or length != len(name) or header[30:] != name:
        raise Refused(f"its member {info.filename[:100]!r} is not in its place")
    return info.header_offset + len(header) + extra


def _content(file: FileIO, info: ZipInfo) -> bytes:
    file.seek(_place(file, info))
    content = file.read(info.file_size)
    if zlib.crc32(content) != info.CRC:
        raise Refused(f"its member {info.filename[:100]!r} is damaged")
    return content


def _open_legacy(path: Path) -> tuple[Any, Offsets]:
    with open(path, "rb") as file:
        stream = Stream(file.read(MAX_BYTES))
        if read_tree(stream)[0] != _MAGIC or read_tree(stream)[0] != _VERSION:
            raise Refused("a pickle, but not written by torch.save")
        machine, _ = read_tree(stream)
        facts = machine.items if isinstance(machine, Pairs) else []
        _check_little_endian(("little_endian", False) not in facts)
        tree, storages = read_tree(stream)
        keys, _ = read_tree(stream)
        if type(keys) is not list or len(keys) != len(storages):
            raise Refused("it does not list its storages")
        return tree, _place_in_turn(file, stream.tell(), keys, storages)


def _place_in_turn(
    file: BufferedReader, start: int, keys: list[Any], storages: dict[str, Storage]
) -> Offsets:
    """Where each storage begins: they follow each other, after their lengths."""
    end = os.fstat(file.fileno()).st_size
    offsets: Offsets = {}
    for key in keys:
        if type(key) is not str or key not in storages or key in offsets:
            raise Refused("it lists a storage twice, or one that it does not use")
        storage = storages[key]
        file.seek(start)
        length = int.from_bytes(file.read(8), "little")
        offsets[key] = start + 8
        start = offsets[key] + storage.nbytes
        if length != storage.length or start > end:
            raise Refused(f"the file ends, or storage {key[:20]!r} has another length")
    return offsets


def _check_little_endian(little: bool) -> None:
    if not little:
        raise Refused("written by a big-endian machine")
