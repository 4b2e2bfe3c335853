"""What every fuzz target asks of an input: it is read, or refused in one good line."""

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

_STANDARD = ("zipfile", "pickletools")  # on which the readers rely
_INSTRUMENTED = [*_STANDARD, "mlx_sd.convert.readers"]
_MAX_READ = 1 << 20  # bytes of the tensors that are read
_MAX_HELD = 1 << 31  # bytes that MLX might hold; more must be refused

with atheris.instrument_imports(include=_INSTRUMENTED):
    for name in _STANDARD:
        # Anew, as what was imported before, by atheris itself, counts nothing.
        sys.modules.pop(name, None)
        importlib.import_module(name)

    import mlx.core as mx

    from mlx_sd import CheckpointError
    from mlx_sd.convert.readers import read_file


def check(path: Path) -> None:
    """Raises: any error but a CheckpointError of one line that begins with a path."""
    try:
        for entry in read_file(path).values():
            if entry.nbytes <= _MAX_READ or entry.nbytes > _MAX_HELD:
                mx.eval(entry.read())
    except CheckpointError as error:
        message = str(error)
        names = message.startswith(f"{path.parent}/")  # it, or a file beside it
        assert names and message.isprintable() and len(message) < 1000, message


def fuzz(content: Callable[[bytes], bytes], beside: dict[str, bytes]) -> None:
    """Run libFuzzer on what `content` makes of its inputs, with good files beside."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = Path(tempfile.mkdtemp(prefix="fuzzed-", dir=memory))
    for name, good in beside.items():
        (folder / name).write_bytes(good)
    path = folder / "x"

    def one_input(data: bytes) -> None:
        path.write_bytes(content(data))
        check(path)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
