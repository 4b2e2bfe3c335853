"""Another Python, and the most memory that a process has had."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def python(*arguments: str | Path, cwd: Path = HERE) -> str:
    """What another Python prints that finds these tests and the package."""
    paths = os.pathsep.join(map(str, (HERE, HERE.parent)))
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return done.stdout


def peak() -> int:
    """The most memory of this process, in bytes.

    On Linux ru_maxrss starts from what the parent had, which hides what the child of
    a large process takes; VmHWM starts anew.
    """
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmHWM")


def resident() -> int:
    """The memory of this process on Linux, in bytes."""
    return _status("VmRSS")


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10
