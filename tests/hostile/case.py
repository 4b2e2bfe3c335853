"""What the corpus consists of: files, and what reading them must come to."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

REFUSED = ""  # a case's `says`: refused, with any reason
_GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> bytes:
    """A good file, written by another program."""
    return (_GOLDEN / name).read_bytes()


class Sparse(NamedTuple):
    """A file that begins with some bytes and goes on with zeros that take no room."""

    start: bytes
    size: int

    @staticmethod
    def after(start: bytes, hole: int) -> "Sparse":
        return Sparse(start, len(start) + hole)


@dataclass(frozen=True)
class Case:
    """Files of which the first is opened."""

    reader: str
    kind: str  # "cut", "damaged", "lie", "bomb", "call", "odd"
    name: str
    files: dict[str, bytes | Sparse]
    says: str | None = REFUSED  # a part of the error; None: read, or any error

    def write(self, path: Path) -> Path:
        """The file to open: at that path, or with others in a folder there."""
        folder, files = path, self.files
        if len(files) == 1:
            folder, files = path.parent, {path.name: next(iter(files.values()))}
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with open(folder / name, "wb") as file:
                if isinstance(content, Sparse):
                    file.write(content.start)
                    file.truncate(content.size)
                else:
                    file.write(content)
        return folder / next(iter(files))


def cuts(reader: str, name: str, whole: bytes, count: int = 20) -> Iterator[Case]:
    """A file that must be read whole or not at all, ended early."""
    sizes = {*range(1, 24), *(len(whole) * i // count for i in range(1, count))}
    for size in sorted(sizes | {len(whole) - 1}):
        yield Case(reader, "cut", f"{name}-{size}", {name: whole[:size]})


_VALUES = {  # what a number in a header is made to be
    "zeros": bytes(8),
    "ones": b"\xff" * 8,
    "large": b"\xff" * 3 + b"\x7f",
    "negative": bytes(3) + b"\x80",
    "2^60": (1 << 60).to_bytes(8, "little"),
}


def damaged(reader: str, name: str, whole: bytes, count: int = 20) -> Iterator[Case]:
    """A file with numbers, pieces and their places changed, all over."""
    step = max(1, len(whole) // count)
    for at in range(0, len(whole), step):
        before, after = whole[:at], whole[at:]
        changes = {
            **{k: value + after[len(value) :] for k, value in _VALUES.items()},
            "removed": after[step // 2 + 1 :],
            "twice": after[: 2 * step] + after,
            "moved": after[step:] + after[:step],
        }
        for change, rest in changes.items():
            case = f"{name}-{change}-{at}"
            yield Case(reader, "damaged", case, {name: before + rest}, says=None)
