"""Zip files of PyTorch checkpoints whose directories lie."""

import io
import struct
import zipfile
from collections.abc import Iterator

from opcodes import named

from .case import Case, cuts, damaged, golden
from .pytorch import FILE, PROTO, STOP, zipped

GOOD = named("a")
WHOLE = zipped(GOOD)
_PICKLE, _DATA = b"x/data.pkl", b"x/data/0"

# Field → where it lies behind the signature's first byte, and its format.
_DIRECTORY = {
    "version": (6, "H"), "flags": (8, "H"), "method": (10, "H"), "crc": (16, "I"),
    "packed": (20, "I"), "size": (24, "I"), "name": (28, "H"), "extra": (30, "H"),
    "comment": (32, "H"), "disk": (34, "H"), "attributes": (38, "I"),
    "offset": (42, "I"),
}  # fmt: skip
_LOCAL = {"flags": (6, "H"), "method": (8, "H"), "name": (26, "H"), "extra": (28, "H")}
_END = {"disk": (4, "H"), "count": (10, "H"), "size": (12, "I"), "offset": (16, "I"),
        "comment": (20, "H")}  # fmt: skip


def _changed(whole: bytes, at: int, fields: dict, values: dict[str, int]) -> bytes:
    data = bytearray(whole)
    for field, value in values.items():
        place, kind = fields[field]
        struct.pack_into("<" + kind, data, at + place, value)
    return bytes(data)


def directory(whole: bytes = WHOLE, member: bytes = _DATA, **values: int) -> bytes:
    """With other values in a member's entry at the end."""
    return _changed(whole, whole.rindex(member) - 46, _DIRECTORY, values)


def local(whole: bytes = WHOLE, member: bytes = _DATA, **values: int) -> bytes:
    """With other values in the header before a member."""
    return _changed(whole, whole.index(member) - 30, _LOCAL, values)


def end(whole: bytes = WHOLE, **values: int) -> bytes:
    return _changed(whole, whole.rindex(b"PK\5\6"), _END, values)


def renamed(old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    return WHOLE.replace(old, new)


METHODS = {
    "deflated": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


def compressed(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x/data.pkl", PROTO + GOOD + STOP)
        archive.writestr("x/data/0", bytes(50_000_000))
    return file.getvalue()


def extra(*fields: bytes) -> bytes:
    """Whose storage has extra fields in the directory."""
    data = b"".join(fields)
    at = WHOLE.rindex(_DATA) + len(_DATA)
    longer = directory(extra=len(data))
    longer = longer[:at] + data + longer[at:]
    size = longer.rindex(b"PK\5\6") - longer.index(b"PK\1\2")
    return end(longer, size=size)


def zip64(size: int, packed: int, offset: int) -> bytes:
    """Whose storage says that its size is in an extra field of 64-bit numbers."""
    field = struct.pack("<HHQQQ", 1, 24, size, packed, offset)
    return directory(
        extra(field), size=-1 % 2**32, packed=-1 % 2**32, offset=-1 % 2**32
    )


def bomb(count: int) -> bytes:
    """Members that all are the same bytes."""
    start = WHOLE.index(b"PK\1\2")
    entry = WHOLE[WHOLE.rindex(_DATA) - 46 : WHOLE.rindex(b"PK\5\6")]
    entries = WHOLE[start : WHOLE.rindex(_DATA) - 46] + b"".join(
        entry.replace(_DATA, b"x/%06x" % i) for i in range(count)
    )
    data = WHOLE[:start] + entries + WHOLE[WHOLE.rindex(b"PK\5\6") :]
    return end(data, size=len(entries), offset=start, count=count % 2**16)


LIES: dict[str, bytes] = {
    "a member above": zipped(GOOD, **{"../../ran": b"x"}),
    "a member at the root": zipped(GOOD, **{"/etc/ran": b"x"}),
    "a folder above": renamed(b"x/data", b"../ata"),
    "a pickle above": renamed(b"x/data.pkl", b"../ata.pkl"),
    "a name of a drive": renamed(b"x/data", b"C:\\dat"),
    "a name cut by NUL": renamed(b"x/data/0", b"x/data\0\0"),
    "encrypted": directory(flags=1),
    "encrypted pickle": directory(member=_PICKLE, flags=1),
    "strongly encrypted": directory(flags=0x41),
    "patched": directory(flags=0x20),
    "deflated, it says": directory(method=8),
    "method 99": directory(method=99),
    "version 99": directory(version=99),
    "a size of 2^32": directory(size=2**32 - 2, packed=2**32 - 2),
    "a size of 2^63": zip64(2**63, 2**63, 0),
    "a size of 2^64": zip64(2**64 - 1, 2**64 - 1, 0),
    "a place of 2^63": zip64(12, 12, 2**63),
    "a place of 2^64": zip64(12, 12, 2**64 - 1),
    "no room for 64 bits": directory(size=2**32 - 1, packed=2**32 - 1),
    "extra fields cut": extra(b"\1\0\xff\xff1234"),
    "a place in another member": directory(offset=8),
    "the place of the pickle": directory(offset=0),
    "a pickle in the place of data": directory(member=_PICKLE, offset=100),
    "a place in the directory": directory(offset=WHOLE.index(b"PK\1\2")),
    "a long local name": local(name=0xFFFF),
    "a long local extra field": local(extra=0xFFFF),
    "a crc": directory(member=_PICKLE, crc=1),
    "fewer members": end(count=1, size=1),
    "a directory of 4 GB": end(size=2**32 - 2),
    "a directory elsewhere": end(offset=2**32 - 2),
    "a directory at the start": end(offset=0, size=10),
    "no directory": WHOLE[: WHOLE.index(b"PK\1\2")] + WHOLE[WHOLE.rindex(b"PK\5\6") :],
    "64 bits elsewhere": WHOLE[: WHOLE.rindex(b"PK\5\6")]
    + b"PK\6\7" + b"\xff" * 16 + WHOLE[WHOLE.rindex(b"PK\5\6") :],
    "64 bits of 2^64": WHOLE[: WHOLE.rindex(b"PK\5\6")]
    + b"PK\6\6" + b"\xff" * 52 + b"PK\6\7" + bytes(4) + b"\1" + bytes(7) + b"\1\0\0\0"
    + end(count=0xFFFF, size=2**32 - 1, offset=2**32 - 1)[WHOLE.rindex(b"PK\5\6") :],
    "no member": end(b"PK\3\4" + WHOLE[WHOLE.rindex(b"PK\5\6") :], count=0, size=0),
    "no zip": b"PK\3\4" + bytes(1000),
    "a zip in a zip": zipped(GOOD, **{"y.zip": WHOLE}),
    "a model archive": zipped(GOOD, **{"x/code/__torch__.py": b"import os"})
    .replace(b"x/data.pkl", b"x/code.pkl"),
}  # fmt: skip


HARMLESS: dict[str, bytes] = {
    "a member above its folder": zipped(GOOD, **{"x/../../ran": b"x"}),
    "a link": directory(attributes=0o120777 << 16),
    "a unicode name of nothing": extra(b"\x75\x70\5\0\1" + bytes(4)),
    "a long name": directory(name=0xFFFF),
    "a long comment": directory(comment=0xFFFF),
    "more members": end(count=0xFFFF),
    "a comment beyond": end(comment=0xFFFF),
}


def archive_cases() -> Iterator[Case]:
    yield from cuts("zip", FILE, golden("pytorch_zip.ckpt"))
    yield from damaged("zip", FILE, golden("pytorch_zip.ckpt"))
    yield from cuts("zip", "small.ckpt", WHOLE)
    yield from damaged("zip", "small.ckpt", WHOLE, count=30)
    for name in ("pytorch_legacy.ckpt", "pytorch_old.pth"):
        yield from cuts("legacy", name, golden(name))
        yield from damaged("legacy", name, golden(name))
    for name, content in LIES.items():
        yield Case("zip", "lie", name, {FILE: content})
    made = {name: compressed(method) for name, method in METHODS.items()}  # seconds
    made["not deflated, it says"] = local(made["deflated"], method=0)
    for name, content in made.items():
        yield Case("zip", "lie", name, {FILE: content})
    for name, content in HARMLESS.items():
        yield Case("zip", "odd", name, {FILE: content}, says=None)
    yield Case("zip", "bomb", "one member as many", {FILE: bomb(60_000)})
    yield Case("zip", "bomb", "a directory of 5 MB", {FILE: bomb(100_000)})
