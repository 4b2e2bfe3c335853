"""Jobs that are measured each in a fresh process, on a full-size SD 1.5 checkpoint."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from common import about

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import seeded
from process import peak as peak_memory

Job = Callable[..., Any]  # takes strings, returns what JSON can hold


class Figures(NamedTuple):
    seconds: float
    returned: Any  # by the job
    before: int  # bytes at the process's peak before the job, which are its imports
    peak: int  # bytes at its peak in the end


def run(job: Job, *arguments: object) -> Figures:
    """A job of the script that is running, in a process of its own."""
    command = [sys.executable, sys.argv[0], "--measure", job.__name__]
    command += map(str, arguments)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        status, said = done.returncode, done.stderr[-2000:]
        raise SystemExit(f"{job.__name__} failed, status {status}:\n{said}")
    return Figures(*json.loads(done.stdout.splitlines()[-1]))


def is_child(jobs: tuple[Job, ...]) -> bool:
    """Do and report the job, if this process is one that `run` started."""
    if sys.argv[1:2] != ["--measure"]:
        return False
    (job,) = (job for job in jobs if job.__name__ == sys.argv[2])
    before, start = peak_memory(), time.perf_counter()
    returned = job(*sys.argv[3:])
    seconds = time.perf_counter() - start
    print(json.dumps(Figures(seconds, returned, before, peak_memory())))
    return True


def main(
    description: str,
    jobs: tuple[Job, ...],
    report: Callable[[str, argparse.Namespace], None],
    add_options: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> None:
    """The command line of a benchmark, and that of the processes which `run` starts.

    Args:
        report: called with the checkpoint's path and the options, `runs` among them.
    """
    if is_child(jobs):
        return
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("file", nargs="?", help="an SD 1.5 file in float16")
    parser.add_argument("--runs", type=int, default=3, help="of each")
    add_options(parser)
    options = parser.parse_args()
    print(about())
    print(f"{options.runs} runs of each\n")
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or seeded_checkpoint(folder)
        _cache(path)
        report(path, options)


def seeded_checkpoint(folder: str) -> str:
    path = Path(folder) / "sd15.safetensors"
    seeded.save(path, seeded.sd1_shapes())
    return str(path)


def _cache(path: str) -> None:
    """Have the system hold the file in memory."""
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
