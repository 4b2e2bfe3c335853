"""GGUF files as stable-diffusion.cpp writes them: version 3 and no metadata.

Without metadata other readers, ComfyUI-GGUF among them, take them for what they are:
stable-diffusion.cpp's. Source: ggml's docs/gguf.md.
"""

import struct
from collections.abc import Iterator, Sequence

from ...errors import CheckpointError
from ..ggml import TYPE_IDS
from ..recode import Piece, Tensor
from .file import Content, given

_ALIGNMENT = 32
_LONGEST_NAME = 127  # bytes; ggml keeps 128 with the closing zero
_MOST_AXES = 4


def gguf(tensors: Sequence[Tensor]) -> Content:
    """The file that holds these tensors.

    Raises: CheckpointError for a name or a number of axes that ggml does not take.
    """
    table, end = b"", 0
    for tensor in tensors:
        table += _described(tensor, offset=end)
        end += _padded(tensor.nbytes)
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 0) + table
    start += bytes(_padded(len(start)) - len(start))

    def pieces() -> Iterator[Piece]:
        yield given(start)
        for tensor in tensors:
            yield from tensor.pieces()
            yield given(bytes(_padded(tensor.nbytes) - tensor.nbytes))

    return Content(len(start) + end, pieces())


def _described(tensor: Tensor, offset: int) -> bytes:
    name, axes = tensor.name.encode(), ggml_shape(tensor.shape)
    if len(name) > _LONGEST_NAME or len(axes) > _MOST_AXES:
        raise CheckpointError(
            f"{tensor.name}: GGUF holds names of at most {_LONGEST_NAME} bytes and "
            f"{_MOST_AXES} axes, not {len(name)} and {len(axes)}; write .safetensors"
        )
    return (
        struct.pack("<Q", len(name))
        + name
        + struct.pack(f"<I{len(axes)}Q", len(axes), *axes)
        + struct.pack("<IQ", TYPE_IDS[tensor.dtype], offset)
    )


def ggml_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """torch's shape as ggml counts: innermost axis first, no 1s at the end."""
    axes = shape[::-1]
    while len(axes) > 1 and axes[-1] == 1:
        axes = axes[:-1]
    return axes or (1,)


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
