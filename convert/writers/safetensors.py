"""safetensors files: https://github.com/huggingface/safetensors, "Format"."""

import json
from collections.abc import Iterator, Mapping, Sequence

from ..dtypes import DTYPES
from ..recode import Piece, Tensor
from .file import Content, given

_METADATA = {"format": "pt"}  # transformers refuses files that do not say so


def safetensors(
    tensors: Sequence[Tensor], metadata: Mapping[str, str] = _METADATA
) -> Content:
    """The file that holds these tensors, those of wider types first.

    So each begins at a multiple of its type's size, as the format's own library sees
    to; the tensors themselves begin at a multiple of 8 bytes.
    """
    ordered = sorted(tensors, key=lambda t: -DTYPES[t.dtype].size)
    header: dict[str, object] = {"__metadata__": {**metadata, **_METADATA}}
    end = 0
    for tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text

    def pieces() -> Iterator[Piece]:
        yield given(start)
        for tensor in ordered:
            yield from tensor.pieces()

    return Content(len(start) + end, pieces())
