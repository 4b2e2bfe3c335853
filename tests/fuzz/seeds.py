"""Write what the fuzz targets begin with, from the corpus of tests/hostile.

Run: python tests/fuzz/seeds.py FOLDER, which gets a folder for each target.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from hostile.__main__ import corpus
from hostile.calls import CALLS, hidden
from hostile.pytorch import GOOD, PICKLES

_MAX_LEN = 16_384  # as the targets are run
_TARGETS = {"index": "safetensors", "zip": "pytorch", "legacy": "pytorch"}


def seeds() -> Iterator[tuple[str, bytes]]:
    """(target, input)"""
    for case in corpus():
        content = next(iter(case.files.values()))
        if isinstance(content, bytes) and len(content) < _MAX_LEN:
            target = _TARGETS.get(case.reader, case.reader)
            yield target, b"\0" + content if target == "pytorch" else content
            if target == "safetensors":
                yield target, bytes(8) + content[8:]
    for opcodes in (GOOD, *PICKLES.values(), *CALLS.values(), *hidden(b"N").values()):
        for kind in (b"\1", b"\2"):
            yield "pytorch", kind + opcodes


def main(folder: Path) -> None:
    for number, (target, content) in enumerate(seeds()):
        (folder / target).mkdir(parents=True, exist_ok=True)
        (folder / target / f"{number}").write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
