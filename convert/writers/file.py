"""Files and folders that appear whole or not at all, written as they are made."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..recode import Piece

Progress = Callable[[int], object]  # takes the number of bytes just written

_THREADS = min(4, os.cpu_count() or 1)
_AHEAD = 2 * _THREADS  # pieces made before they are written: bounds the memory


@dataclass(frozen=True)
class Content:
    """What a file will hold."""

    size: int  # in bytes
    pieces: Iterator[Piece]


def given(data: bytes) -> Piece:
    """A piece that is there already."""
    return lambda: np.frombuffer(data, np.uint8)


def content(data: bytes) -> Content:
    return Content(len(data), iter([given(data)]))


def write(path: Path, content: Content, progress: Progress) -> None:
    """Write a new file; its bytes are on the disk when this returns.

    Other threads make the next pieces while this one writes.
    """
    made: deque[Future[np.ndarray]] = deque()
    with open(path, "xb") as file, ThreadPoolExecutor(_THREADS) as pool:
        try:
            for piece in content.pieces:
                made.append(pool.submit(piece))
                if len(made) > _AHEAD:
                    progress(file.write(made.popleft().result().data))
            while made:
                progress(file.write(made.popleft().result().data))
        finally:
            pool.shutdown(cancel_futures=True)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A path to write to, beside `path`, whose name it takes when all is written.

    What was at `path` stays until then. After an error or Ctrl-C it stays for good, and
    what was written goes.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        for folder in [part, *part.glob("*/")] if part.is_dir() else []:
            _sync(folder)
        _rename(part, path)
    except BaseException:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _rename(part: Path, path: Path) -> None:
    """A folder's name can go to another folder only once that has given it up."""
    if not path.is_dir():
        os.replace(part, path)
        return
    old = part.with_suffix(".old")
    os.rename(path, old)
    try:
        os.rename(part, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old)


def _sync(folder: Path) -> None:
    """Make the names in a folder last, where the system can do that."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
