"""Write the corpus into a folder, and a list of it: see the package."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from .archive import archive_cases
from .case import Case
from .gguf import gguf_cases
from .index import index_cases
from .models import model_cases
from .pytorch import pickle_cases
from .tensors import safetensors_cases


def corpus() -> Iterator[Case]:
    yield from safetensors_cases()
    yield from index_cases()
    yield from archive_cases()
    yield from pickle_cases()
    yield from gguf_cases()
    yield from model_cases()


def main(folder: Path) -> None:
    rows = []
    for number, case in enumerate(corpus()):
        name = re.sub(r"\W+", "-", f"{case.reader} {case.kind} {case.name}")
        path = case.write(folder / f"{name[:80]}-{number}")
        rows.append({**asdict(case), "files": None, "path": str(path)})
    (folder / "cases.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
