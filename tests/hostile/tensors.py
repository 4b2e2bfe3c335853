"""safetensors files that lie."""

import json
from collections.abc import Iterator
from typing import Any

from .case import Case, Sparse, cuts, damaged, golden

FILE = "x.safetensors"


def file(header: Any, body: bytes = b"1") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def field(dtype: Any = "U8", shape: Any = (1,), offsets: Any = (0, 1), **more) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def listed(count: int, pattern: bytes) -> bytes:
    return b",".join(pattern % i for i in range(count))


_ONE = json.dumps(field()).encode()

LIES: dict[str, bytes | Sparse] = {
    "length 1 GB": Sparse((1 << 30).to_bytes(8, "little") + b"{", 2 << 30),
    "length 100 MB": Sparse((100 << 20).to_bytes(8, "little") + b"{", 200 << 20),
    "length 2^63": Sparse((1 << 63).to_bytes(8, "little") + b"{", 1 << 20),
    "length 2^64": b"\xff" * 8 + b"{}",
    "length beyond": (1000).to_bytes(8, "little") + b'{"a": 1}',
    "length 1": (1).to_bytes(8, "little") + b"{}",
    "no object": file(b"{"),
    "more than an object": file(b"{} {}"),
    "list": file({"a": []}),
    "null": file({"a": None}),
    "no fields": file({"a": {}}),
    "no offsets": file({"a": {"dtype": "U8", "shape": [1]}}),
    "dtype": file({"a": field("U9")}),
    "dtype a number": file({"a": field(8)}),
    "dtype of more bytes": file({"a": field("F32")}),
    "dtype of fewer bytes": file({"a": field("U8", [1], [0, 4])}, b"1234"),
    "dtype of half bytes": file({"a": field("F4", [1])}),
    "2^60 values": file({"a": field(shape=[1 << 60])}),
    "2^64 values": file({"a": field(shape=[1 << 32, 1 << 32])}),
    "2^64 values and none": file({"a": field(shape=[1 << 63, 2, 0])}, b""),
    "2^70 values": file({"a": field(shape=[1 << 70])}),
    "2^40 and none": file({"a": field(shape=[0, 1 << 40], offsets=[0, 0])}, b""),
    "2^63 and none": file({"a": field(shape=[0, 1 << 63], offsets=[0, 0])}, b""),
    "3 GB in a row": Sparse.after(
        file({"a": field("I8", [3 << 30], [0, 3 << 30])}, b""), 3 << 30
    ),
    "negative axis": file({"a": field(shape=[-1])}),
    "negative axes": file({"a": field(shape=[-1, -1])}),
    "axis 1.0": file({"a": field(shape=[1.0])}),
    "axis a text": file({"a": field(shape=["1"])}),
    "axis true": file({"a": field(shape=[True])}),
    "axes in axes": file({"a": field(shape=[[1]])}),
    "shape a number": file({"a": field(shape=1)}),
    "offsets swapped": file({"a": field(offsets=[1, 0])}),
    "offsets negative": file({"a": field(offsets=[-1, 0])}),
    "offsets beyond": file({"a": field(offsets=[1 << 60, (1 << 60) + 1])}),
    "offsets 2^64": file({"a": field(offsets=[(1 << 64) - 1, 0])}),
    "offsets into the header": file({"a": field(offsets=[-8, -7])}),
    "one offset": file({"a": field(offsets=[0])}),
    "three offsets": file({"a": field(offsets=[0, 1, 2])}),
    "same offsets": file({"a": field(), "b": field()}),
    "overlap": file({"a": field("U8", [2], [0, 2]), "b": field(offsets=[1, 2])}, b"12"),
    "gap": file({"a": field(), "b": field(offsets=[2, 3])}, b"123"),
    "gap before": file({"a": field(offsets=[1, 2])}, b"12"),
    "bytes left over": file({"a": field()}, b"12"),
    "name twice": file(b'{"a": %b, "\\u0061": %b}' % (_ONE, _ONE)),
    "field twice": file(b'{"a": {"shape": [0], %b}' % _ONE[1:]),
    "metadata twice": file(b'{"__metadata__":{},"__metadata__":{},"a":%b}' % _ONE),
    "metadata a number": file({"__metadata__": {"a": 1}, "a": field()}),
    "metadata deep": file(b'{"__metadata__":{"a":%b},"a":%b}' % (nested(9999), _ONE)),
    "metadata a tensor": file({"__metadata__": field()}),
    "unknown field deep": file({"a": field(x="y")}).replace(b'"y"', nested(1)),
    "deep": file(b'{"a":' + nested(50_000) + b"}"),
    "deep objects": file(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "name a surrogate": file(b'{"\\ud800": %b}' % _ONE),
    "name not UTF-8": file(b'{"\xff\xfe": %b}' % _ONE),
    "name with NUL": file({"a\0b": field()}),
    "name with a line": file({"a\nb": field()}),
    "name with an escape": file({"\x1b]0;x\7": field()}),
    "name that turns round": file({"\u202egnp.exe": field()}),
    "name empty": file({"": field()}),
    "name of 9 MB": file({"a" * (9 << 20): field()}),
    "UTF-16": file(json.dumps({"a": field()}).encode("utf-16-le")),
    "UTF-8 with a mark": file(b"\xef\xbb\xbf" + json.dumps({"a": field()}).encode()),
    "digits": file(b'{"a": {"dtype":"U8","shape":[%b]}}' % (b"9" * 1_000_000)),
    "NaN": file(b'{"a": NaN}'),
}
BOMBS = {
    "empty tensors": file(
        b"{%b}"
        % listed(180_000, b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'),
        b"",
    ),
    "metadata": file(
        b'{"__metadata__":{%b},"a":{}}' % listed(900_000, b'"%x":""'), b""
    ),
    "spaces": file(b"{" + b" " * 9_000_000 + b"}", b""),
}


HARMLESS = {
    "100 axes": file({"a": field(shape=[1] * 100)}),
    "many axes": file({"a": field(shape=[1] * 100_000)}),
    "millions of axes": file({"a": field("U8", [0] * 1_000_000, [0, 0])}, b""),
}


def safetensors_cases() -> Iterator[Case]:
    whole = golden("every_type.safetensors")
    yield from cuts("safetensors", FILE, whole)
    yield from damaged("safetensors", FILE, whole)
    for kind, contents in (("lie", LIES), ("bomb", BOMBS)):
        for name, content in contents.items():
            yield Case("safetensors", kind, name, {FILE: content})
    for name, content in HARMLESS.items():
        yield Case("safetensors", "odd", name, {FILE: content}, says=None)
