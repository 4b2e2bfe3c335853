"""Indexes of a model in several files that lie; the files beside them are good."""

import json
from collections.abc import Iterator
from typing import Any

from .case import Case, Sparse, cuts, damaged
from .tensors import field, file, nested

INDEX = "model.safetensors.index.json"
SHARDS = {
    "1.safetensors": file({"a": field(), "b": field(offsets=(1, 2))}, b"12"),
    "2.safetensors": file({"c": field()}),
}
_GOOD = {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}


def index(weight_map: Any) -> bytes:
    return json.dumps({"weight_map": weight_map}).encode()


WHOLE = index(_GOOD)
LIES = {
    "above": index({"a": "../1.safetensors"}),
    "elsewhere": index({"a": "/etc/passwd"}),
    "above, by a backslash": index({"a": "..\\1.safetensors"}),
    "here": index({"a": "."}),
    "itself": index({"a": INDEX}),
    "no file": index({"a": "3.safetensors"}),
    "a file with a line": index({"a": "3\n.safetensors"}),
    "a file with an escape": index({"a": "\x1b[2J3.safetensors"}),
    "a file with NUL": index({"a": "3\0.safetensors"}),
    "a file with a surrogate": index({"a": "\ud800.safetensors"}),
    "a long file": index({"a": "a" * 5000}),
    "no tensor": index({"d": "1.safetensors"}),
    "a tensor with a line": index({"d\n\x1b[2J": "1.safetensors"}),
    "a tensor with a surrogate": index({"\ud800": "1.safetensors"}),
    "a long tensor": index({"d" * 100_000: "1.safetensors"}),
    "a shard a number": index({"a": 1}),
    "a shard a list": index({"a": ["1.safetensors"]}),
    "a shard null": index({"a": None}),
    "a map in the map": index({"a": {"b": "1.safetensors"}}),
    "a list": index(["1.safetensors"]),
    "null": index(None),
    "nothing": index({}),
    "no map": b"{}",
    "deep": b'{"weight_map": %b}' % nested(100_000),
    "deep objects": b'{"a":' * 100_000,
    "a long number": b'{"weight_map": %b}' % (b"9" * 1_000_000),
    "not UTF-8": b'{"weight_map": {"\xff": "1.safetensors"}}',
}
BOMBS: dict[str, bytes | Sparse] = {
    "lists": b'{"weight_map": {"a": "3"}, "x": [%b[]]}' % (b"[]," * 1_000_000),
    "objects": b'{"weight_map": {"a": "3"}, "x": [%b{}]}' % (b"{}," * 1_000_000),
    "tensors": index({f"{i}": "1.safetensors" for i in range(150_000)}),
    "shards": index({f"{i}": f"{i}.safetensors" for i in range(150_000)}),
    "length": Sparse(b"{", 100 << 20),
}


def _many(letter: str) -> bytes:
    """A shard of 20,000 empty tensors."""
    return file({f"{letter}{i}": field("U8", [0], [0, 0]) for i in range(20_000)}, b"")


def index_cases() -> Iterator[Case]:
    shards = {f"{letter}.safetensors": _many(letter) for letter in "abc"}
    many = index({shard[0] + "1": shard for shard in shards})
    yield Case("index", "bomb", "shards in all", {INDEX: many} | shards, "in all")
    for case in (*cuts("index", INDEX, WHOLE), *damaged("index", INDEX, WHOLE)):
        yield Case(case.reader, case.kind, case.name, case.files | SHARDS, case.says)
    for kind, contents in (("lie", LIES), ("bomb", BOMBS)):
        for name, content in contents.items():
            yield Case("index", kind, name, {INDEX: content} | SHARDS)
