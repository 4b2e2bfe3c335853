"""SD 1.5 in float16 → GGUF of each type: time and peak memory of a fresh process.

Every conversion has a process of its own, and they take turns. Ours is on the disk when
it ends; stable-diffusion.cpp leaves that to the system.
"""

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path

from processes import Figures, main, run

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


def report(source: str, options: argparse.Namespace) -> None:
    print(
        "| type | GB | ours, s | sd.cpp, s | ratio | ours, peak GB | sd.cpp, peak GB |"
    )
    print(
        "|------|---:|--------:|----------:|------:|--------------:|----------------:|"
    )
    sides = [ours]
    if importlib.util.find_spec("stable_diffusion_cpp") is not None:
        sides.append(peer)
    for kind in options.types:
        found: dict[str, list[Figures]] = {side.__name__: [] for side in sides}
        with tempfile.TemporaryDirectory() as folder:
            for side in sides * options.runs:
                target = Path(folder) / f"{side.__name__}.gguf"
                target.unlink(missing_ok=True)
                os.sync()  # what others wrote is not to be waited for
                found[side.__name__].append(run(side, source, target, kind))
            size = (Path(folder) / "ours.gguf").stat().st_size / 1e9
        seconds = {name: min(figures).seconds for name, figures in found.items()}
        peaks = {n: f"{max(f.peak for f in fs) / 1e9:.2f}" for n, fs in found.items()}
        theirs = f"{seconds['peer']:.1f}" if "peer" in seconds else "–"
        ratio = seconds["ours"] / seconds.get("peer", float("nan"))
        print(
            f"| {kind} | {size:.2f} | {seconds['ours']:.1f} | {theirs} | {ratio:.2f} "
            f"| {peaks['ours']} | {peaks.get('peer', '–')} |",
            flush=True,
        )


def add_types(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))


if __name__ == "__main__":
    main(__doc__, (ours, peer), report, add_types)
