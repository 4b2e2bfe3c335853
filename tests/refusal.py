"""How a file is refused: soon, in one line that begins with its path."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_sd import CheckpointError
from mlx_sd.convert.readers import read_file


def failure(path: Path, function: Callable[[Path], object] = read_file) -> str:
    """What the one error says that `function` ends in."""
    start = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        function(path)
    assert time.process_time() - start < 2
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.isprintable()
    return message
