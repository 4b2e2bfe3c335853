"""GGUF files that lie."""

import struct
from collections.abc import Iterator

from gguf_parts import (
    ARRAY,
    BOOL,
    F32,
    STRING,
    U8,
    U32,
    U64,
    array,
    gguf,
    key,
    shape_key,
    tensor,
    text,
)

from .case import Case, Sparse, cuts, damaged, golden

FILE = "x.gguf"
MAX = 2**64 - 1
I8, Q4_K = 24, 12  # of tensors


def alignment(value: int, kind: int = U64) -> bytes:
    size = {U8: 1, U32: 4, U64: 8, BOOL: 1}[kind]
    return key("general.alignment", kind, value.to_bytes(size, "little"))


def strings(count: int, values: bytes = b"") -> bytes:
    return key("x", ARRAY, array(STRING, count, values))


_NUMBERS = b"".join(key(f"{i:x}", U8, b"1") for i in range(2**15))

LIES: dict[str, bytes | Sparse] = {
    "nothing but a magic number": b"GGUF",
    "a version alone": b"GGUF\3\0\0\0",
    "no tensors": gguf(),
    "counts of zero": gguf(tensor(), counts=(0, 0)),
    "counts of 2^64": gguf(tensor(), counts=(MAX, MAX)),
    "counts of 2^31": gguf(tensor(), counts=(2**31, 2**31)),
    "counts swapped": gguf(tensor(), tensor("b", offset=32), counts=(0, 2)),
    "dims of 2^64 that wrap to 0": gguf(tensor(dims=(2**32, 2**32, 4))),
    "dims of 2^64 that wrap to 8": gguf(tensor(dims=(2**63 + 4, 2))),
    "dims of 2^63": gguf(tensor(dims=(2**63,))),
    "3 GB in a row": Sparse.after(
        gguf(tensor(dims=(3 << 30,), kind=I8), data=b""), 3 << 30
    ),
    "blocks that wrap": gguf(tensor(dims=(2**64 - 256,), kind=Q4_K)),
    "an offset that wraps": gguf(tensor(offset=2**64 - 32)),
    "an offset of 2^63": gguf(tensor(offset=2**63)),
    "alignment 0": gguf(tensor(), metadata=[alignment(0)]),
    "alignment 33": gguf(tensor(), metadata=[alignment(33)]),
    "alignment 2^63": gguf(tensor(), metadata=[alignment(2**63)]),
    "alignment 2^64 - 1": gguf(tensor(), metadata=[alignment(MAX)]),
    "alignment a list": gguf(
        tensor(), metadata=[key("general.alignment", ARRAY, array(U32, 1, bytes(4)))]
    ),
    "alignment not a number": gguf(
        tensor(), metadata=[key("general.alignment", F32, struct.pack("<f", 32))]
    ),
    "arrays in arrays": gguf(
        metadata=[key("x", ARRAY, struct.pack("<IQ", ARRAY, 1) * 100_000)]
    ),
    "an array of 2^64": gguf(metadata=[key("x", ARRAY, array(U64, MAX))]),
    "strings of 2^64": gguf(metadata=[strings(3, struct.pack("<Q", MAX) * 3)]),
    "strings that wrap": gguf(metadata=[strings(3, struct.pack("<Q", 2**64 - 8) * 3)]),
    "types of 2^32": gguf(metadata=[key("x", 2**32 - 1, b"")]),
    "original shape of none": gguf(tensor(), metadata=[shape_key("a")]),
    "original shape of zero": gguf(tensor(), metadata=[shape_key("a", 0, 8)]),
    "original shape that wraps": gguf(
        tensor(), metadata=[shape_key("a", 2**30, 2**30, 16, 2)]
    ),
    "original shape of 16 axes": gguf(
        tensor(dims=(1,)), metadata=[shape_key("a", *[2] * 16)]
    ),
    "original shape of 17 axes": gguf(
        tensor(dims=(1,)), metadata=[shape_key("a", *[1] * 17)]
    ),
    "original shape in bools": gguf(
        tensor(dims=(1,)),
        metadata=[key("comfy.gguf.orig_shape.a", ARRAY, array(BOOL, 1, b"\0"))],
    ),
    "a name of a megabyte": gguf(tensor("a" * (1 << 20))),
    "a name of an escape": gguf(tensor("\x1b]0;x\7")),
    "a name of a surrogate": gguf(tensor(b"\xed\xa0\x80")),
    "a name of NUL": gguf(tensor("a\0")),
    "a name beyond": gguf(struct.pack("<Q", MAX) + b"a"),
}
BOMBS: dict[str, bytes | Sparse] = {
    "metadata": gguf(tensor("a", (9, 9)), metadata=[_NUMBERS], counts=(1, 2**15)),
    "long names": gguf(*(tensor("n" * 900 + f"{i:x}") for i in range(2**14))),
    "tensors": gguf(*(tensor(f"{i:x}", (1,)) for i in range(2**15))),
    "strings in many arrays": gguf(
        metadata=[
            key(f"{i:x}", ARRAY, array(STRING, 100, bytes(800))) for i in range(2**14)
        ]
    ),
    "a header of 1 GB": Sparse(
        gguf(metadata=[key("x", ARRAY, array(U8, 1 << 30))], data=b""), 1 << 31
    ),
}


HARMLESS = {
    "original shapes": gguf(
        *(tensor(f"{i:x}", (1,), offset=32 * i) for i in range(2**10)),
        metadata=[shape_key(f"{i:x}", *[1] * 16) for i in range(2**10)],
        data=bytes(32 << 10),
    ),
}


def _whole() -> bytes:
    """Every type of metadata, and tensors whose last byte is the file's."""
    metadata = [
        strings(3, text("a") + text("") + text("bc")),
        key("y", BOOL, b"\1"),
        alignment(16, U32),
        shape_key("a", 2, 2, 2),
    ]
    tensors = [tensor("a", (4, 2)), tensor("b", (32,), kind=2, offset=32)]
    return gguf(*tensors, metadata=metadata, data=bytes(50), alignment=16)


def gguf_cases() -> Iterator[Case]:
    yield from cuts("gguf", FILE, _whole())
    yield from damaged("gguf", FILE, _whole())
    yield from damaged("gguf", "all-types.gguf", golden("written.gguf"))
    for kind, contents in (("lie", LIES), ("bomb", BOMBS)):
        for name, content in contents.items():
            yield Case("gguf", kind, name, {FILE: content})
    for name, content in HARMLESS.items():
        yield Case("gguf", "odd", name, {FILE: content}, says=None)
