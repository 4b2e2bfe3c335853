"""PyTorch checkpoints, in zip files and of the legacy format, that lie or attack."""

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator

from opcodes import LEGACY, named, storage, tensor, text

from .calls import CALLS, hidden
from .case import Case

FILE = "x.ckpt"
PROTO, STOP = b"\x80\2", b"."


def zipped(opcodes: bytes, data: bytes = bytes(12), **members: bytes) -> bytes:
    """A checkpoint with one storage and maybe more."""
    content = {"x/data.pkl": PROTO + opcodes + STOP, "x/data/0": data, **members}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file.getvalue()


def legacy(opcodes: bytes) -> bytes:
    """The same, in the older format."""
    keys = pickle.dumps(["0"], 2)
    return LEGACY + PROTO + opcodes + STOP + keys + struct.pack("<Q", 3) + bytes(12)


FORMATS = {"zip": zipped, "legacy": legacy}
GOOD = named("a")
_NOT_RUN = "nothing of it was run"


def dicts(depth: int, inside: bytes) -> bytes:
    return b"}N" * depth + inside + b"s" * depth


def _huge(length: int) -> bytes:
    """A whole number, by its bytes."""
    return b"\x8a\x09" + length.to_bytes(9, "little")


def _named(value: bytes) -> bytes:
    return b"}" + text("a") + value + b"s"


_REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
_CALLBACKS = text("pytorch_lightning.callbacks")
PICKLES: dict[str, bytes] = {
    "2^40 and none": _named(tensor(shape=b"K\0" + _huge(1 << 40) + b"\x86",
                                    stride=b"K\1K\1\x86")),
    "2^47 twice and none": _named(tensor(shape=b"K\0" + _huge(1 << 47) + b"2\x87",
                                          stride=b"K\3K\2K\1\x87")),
    "a length of 65 bits": _named(tensor(shape=_huge(1 << 64) + b"\x85")),
    "storage of 2^60": _named(tensor(storage(length=_huge(1 << 60)))),
    "storage above": _named(tensor(storage("../0"))),
    "a name that is no UTF-8": b"}X\2\0\0\0\xc3\x28" + tensor() + b"s",
    "a name of a surrogate": b"}X\3\0\0\0\xed\xa0\x80" + tensor() + b"s",
    "a name of an escape": named("\x1b]0;x\7"),
    "a module that is no ASCII": b"c\xff\xfe\nx\n",
    "a name with blanks": b"ctorch FloatStorage\nx\n",
    "a name of nothing": b"c\n\n",
    "a text without end": b"S'abc\n",
    "a number without digits": b"I\n",
    "a number of underscores": b"I1_0\n",
    "a float of 900 digits": b"F1e" + b"9" * 900 + b"\n",
    "a frame of 2^64": b"\x95" + b"\xff" * 8,
    "a protocol of 255": b"\x80\xff",
    "length -5": b"T\xfb\xff\xff\xffabc",
    "length 2^63": b"\x8d\1" + bytes(6) + b"\x80abc",
    "a memo of 2^32": b"Nr\xff\xff\xff\xff",
    "a memo of -1": b"Np-1\n",
    "a memo of 400 digits": b"Np" + b"9" * 400 + b"\n",
    "a state in itself": b"}q\0h\0b",
    "a list in its dict": b"ccollections\nOrderedDict\n]q\1h\1h\1\x86a\x85R",
}  # fmt: skip
BOMBS: dict[str, bytes] = {
    "names of callbacks": _CALLBACKS + b"q\0" + text("x" * 3_500_000) + b"q\1]("
    + b"h\0h\1\x93" * 80_000 + b"e",
    "long names": b"}" + b"".join(text(f"{i}" + "k" * 480) + b"}" for i in range(14))
    + tensor() + b"q\x010(" + b"".join(text(f"{i}") + b"h\1" for i in range(49_000))
    + b"u" + b"s" * 14,
    "deep dicts": dicts(80_000, b"N"),
    "deep sets": b"Nq\0" + b"(h\0\x91q\0" * 90_000,
    "deep persistent id": b"N" + b"\x85" * 200_000 + b"Q",
    "deep metadata": b"}" + text("a") + tensor()[:-2] + dicts(80_000, b"N") + b"tRs",
    "storages": b"".join(storage(f"{i}") + b"0" for i in range(20_000)) + GOOD,
    "tensors": b"](" + tensor()[:-1] + b"q\0R" + _REBUILD + b"q\1"
    + b"h\1h\0R" * 60_000 + b"e",
    "a long key": b"]" + text("x" * 3_000_000) + b"q\x000"
    + (b"(" + text("storage") + b"ctorch\nFloatStorage\nh\0NK\3tQ0") * 5_000,
}  # fmt: skip


def pickle_cases() -> Iterator[Case]:
    for reader, made in FORMATS.items():
        for name, opcodes in CALLS.items():
            yield Case(reader, "call", name, {FILE: made(opcodes)}, _NOT_RUN)
        for name, opcodes in hidden(CALLS["os.system"]).items():
            yield Case(reader, "call", f"in {name}", {FILE: made(opcodes)}, _NOT_RUN)
        for name, opcodes in PICKLES.items():
            yield Case(reader, "lie", name, {FILE: made(opcodes)})
    for name, opcodes in BOMBS.items():  # one machine runs the pickles of both
        yield Case("zip", "bomb", name, {FILE: zipped(opcodes)})
    keys = pickle.dumps([f"{i}" for i in range(150_000)], 2)
    many = LEGACY + PROTO + GOOD + STOP + keys
    yield Case("legacy", "bomb", "keys", {FILE: many})
