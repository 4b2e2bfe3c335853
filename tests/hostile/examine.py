"""Read every file of the corpus, within limits, and say what came of each.

Run: python -m hostile.examine FOLDER, in tests/; the results are JSON on stdout.
"""

import contextlib
import json
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from click.testing import CliRunner
from process import peak

from mlx_sd import CheckpointError
from mlx_sd.cli import main as command
from mlx_sd.convert.readers import read_file

SECONDS = 2  # of the processor, for each file
MEGABYTES = 300  # above what the process has before, in all
_MAX_READ = 16 << 20  # bytes of the tensors that are read
_MAX_HELD = 1 << 31  # bytes that MLX might hold; more must be refused


class OverLimit(BaseException):
    """Not an Exception, so that nobody handles it."""


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Stop what takes too long or, on Linux, asks for too much memory."""

    def stop(*_: object) -> None:
        raise OverLimit(f"longer than {SECONDS} s")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        data = int(status.partition("VmData:")[2].split()[0]) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (data + (MEGABYTES << 20), before[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, before)


def read_all(path: Path) -> None:
    """Every tensor, and then what a user would ask."""
    for entry in read_file(path).values():
        if entry.nbytes <= _MAX_READ or entry.nbytes > _MAX_HELD:
            entry.read()
    result = CliRunner().invoke(command, ["inspect", str(path)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception


def outcome(path: Path, read: Callable[[Path], object] = read_all) -> str:
    """ "read", "refused: …", or "fault: …" for anything but one good error."""
    try:
        with limits():
            read(path)
        return "read"
    except CheckpointError as error:
        return _refusal(path, str(error))
    except BaseException as error:
        return f"fault: {type(error).__name__}: {error}"


def _refusal(path: Path, message: str) -> str:
    about_file = message.startswith((f"{path}: ", f"{path.parent}/"))
    if about_file and message.isprintable() and len(message) < 1000:
        return f"refused: {message}"
    return f"fault: not a line about the file: {message[:1000]!r}"


def main(folder: Path) -> None:
    paths = [case["path"] for case in json.loads((folder / "cases.json").read_text())]
    start = peak()
    results = {}
    for path in paths:
        before, begin = peak(), time.process_time()
        result = outcome(Path(path))
        seconds, grown = time.process_time() - begin, peak() - start
        if grown > MEGABYTES << 20 and peak() > before:
            result = f"fault: {grown >> 20} MB"
        elif seconds > SECONDS:
            result = f"fault: {seconds:.1f} s"
        results[path] = {"outcome": result, "seconds": seconds, "MB": grown >> 20}
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
