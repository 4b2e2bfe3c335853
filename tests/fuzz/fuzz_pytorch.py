"""Fuzz the readers of PyTorch checkpoints: see README.md.

An input's first byte says what the rest is: the opcodes of a pickle in a zip file (1)
or of a legacy file (2), which are put into an otherwise good one, or any file.
"""

from hostile.pytorch import legacy, zipped
from oracle import fuzz

_MADE = {1: zipped, 2: legacy}


def made(data: bytes) -> bytes:
    make = _MADE.get(data[0]) if data else None
    return make(data[1:]) if make else data[1:]


fuzz(made, beside={})
