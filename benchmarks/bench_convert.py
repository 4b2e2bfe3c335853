"""SD 1.5 in float16 → GGUF of each type: time and peak memory of a fresh process.

Every conversion has a process of its own, and they take turns. Ours is on the disk when
it ends; stable-diffusion.cpp leaves that to the system.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_load import peak, seeded_checkpoint
from common import commit, versions

from mlx_sd import backend
from mlx_sd.convert import convert
from mlx_sd.convert.type_rules import TYPES


def ours(source: str, target: str, kind: str) -> None:
    convert(source, target, type=kind)


def peer(source: str, target: str, kind: str) -> None:
    from stable_diffusion_cpp import GGML_TYPE_MAP
    from stable_diffusion_cpp.stable_diffusion_cpp import convert

    wanted = GGML_TYPE_MAP[kind.lower()]
    if not convert(source.encode(), b"", target.encode(), wanted, b"", False):
        raise SystemExit("stable-diffusion.cpp could not convert")


def measure(side: str, *arguments: str) -> None:
    """In a process of its own: prints seconds and the bytes of its peak."""
    start = time.perf_counter()
    {"ours": ours, "peer": peer}[side](*arguments)
    print(json.dumps((time.perf_counter() - start, peak())))


def run(side: str, *arguments: str) -> tuple[float, int]:
    os.sync()  # what others wrote is not to be waited for
    command = [sys.executable, __file__, "--measure", side, *arguments]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def report(source: str, folder: Path, types: list[str], runs: int) -> None:
    print(f"{backend.device_name()}; {versions()}; commit {commit()}")
    print(f"best of {runs} runs\n")
    print(
        "| type | GB | ours, s | sd.cpp, s | ratio | ours, peak GB | sd.cpp, peak GB |"
    )
    print(
        "|------|---:|--------:|----------:|------:|--------------:|----------------:|"
    )
    sides = ["ours"]
    if importlib.util.find_spec("stable_diffusion_cpp") is not None:
        sides.append("peer")
    for kind in types:
        found: dict[str, list[tuple[float, int]]] = {side: [] for side in sides}
        for _ in range(runs):
            for side in sides:
                target = folder / f"{side}.gguf"
                with contextlib.suppress(FileNotFoundError):
                    target.unlink()
                found[side].append(run(side, source, str(target), kind))
        size = (folder / "ours.gguf").stat().st_size / 1e9
        seconds = {side: min(found[side])[0] for side in sides}
        peaks = {side: f"{max(p for _, p in found[side]) / 1e9:.2f}" for side in sides}
        theirs = f"{seconds['peer']:.1f}" if "peer" in seconds else "–"
        ratio = seconds["ours"] / seconds.get("peer", float("nan"))
        print(
            f"| {kind} | {size:.2f} | {seconds['ours']:.1f} | {theirs} | {ratio:.2f} "
            f"| {peaks['ours']} | {peaks.get('peer', '–')} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", help="an SD 1.5 file in float16")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = args.file or seeded_checkpoint(folder)
        report(source, Path(folder), args.types, args.runs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        main()
