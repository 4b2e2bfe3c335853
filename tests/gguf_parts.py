"""GGUF files, made piece by piece."""

import struct
from collections.abc import Sequence

# Types of metadata, and of tensors.
U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10  # in metadata
F32_TENSOR, F16_TENSOR, Q4_0, Q8_1 = 0, 1, 2, 9


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def shape_key(name: str, *shape: int) -> bytes:
    values = struct.pack(f"<{len(shape)}i", *shape)
    return key(f"comfy.gguf.orig_shape.{name}", ARRAY, array(I32, len(shape), values))


def tensor(
    name: str | bytes = "a",
    dims: Sequence[int] = (4, 2),
    kind: int = F32_TENSOR,
    offset: int = 0,
    axes: int | None = None,
) -> bytes:
    """Its description; dims are innermost first."""
    axes = len(dims) if axes is None else axes
    return (
        text(name)
        + struct.pack(f"<I{len(dims)}Q", axes, *dims)
        + struct.pack("<IQ", kind, offset)
    )


def gguf(
    *tensors: bytes,
    metadata: Sequence[bytes] = (),
    data: bytes = bytes(range(32)),
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    counts = counts or (len(tensors), len(metadata))
    header = b"GGUF" + struct.pack("<IQQ", version, *counts)
    header += b"".join([*metadata, *tensors])
    return header + bytes(-len(header) % alignment) + data
