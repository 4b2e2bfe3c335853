"""What every benchmark needs: the SD 1.5 models, fair timing, and a table.

Weights are random: time does not depend on their values. The peer, diffusers, runs in
the same process and takes turns with us, because other work comes and goes.
"""

import argparse
import datetime
import importlib.metadata
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_sd import backend, bench

UNET, VAE, CLIP = bench.SD1_UNET, bench.VAE, bench.CLIP_L


@dataclass(frozen=True)
class Row:
    """One thing to time: ours and, where it is installed, diffusers'."""

    name: str
    ours: Callable[[], object]
    peer: Callable[[], object] | None


def options(description: str, **defaults: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def in_dtype(model: nn.Module) -> nn.Module:
    """With evaluated weights of the type that this backend computes in."""
    return bench.in_dtype(model, backend.compute_dtype())


def torch_setup() -> tuple[str, object] | None:
    """The peer's device and type, matching ours; None if torch is not installed."""
    try:
        import torch

        for package in ("transformers", "diffusers"):  # for peer.py
            import_module(package)
    except ImportError:
        return None
    torch.set_grad_enabled(False)
    cuda = torch.cuda.is_available() and backend.compute_dtype() == mx.float16
    return ("cuda", torch.float16) if cuda else ("cpu", torch.float32)


def finish_torch() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(rows: list[Row], runs: int) -> None:
    """Time the rows, taking turns, and print medians and ratios."""
    print(about())
    print(f"BLAS on the CPU: {backend.blas().name}; median of {runs} runs\n")
    print(f"| {'work':34} | mlx-sd, s | diffusers, s | ratio | peak GB |")
    print(f"|{'-' * 36}|----------:|-------------:|------:|--------:|")
    for row in rows:
        sides = [side for side in (row.ours, row.peer) if side is not None]
        for side in sides:
            side()  # warm up: allocations, and kernels compiled at first use
        mx.reset_peak_memory()
        times: list[list[float]] = [[] for _ in sides]
        for _ in range(runs):
            for side, record in zip(sides, times, strict=True):
                start = time.perf_counter()
                side()
                record.append(time.perf_counter() - start)
        ours, *peer = map(statistics.median, times)
        theirs = (
            f"{peer[0]:12.3f} | {ours / peer[0]:5.2f}"
            if peer
            else f"{'–':>12} | {'–':>5}"
        )
        peak = mx.get_peak_memory() / 1e9
        print(f"| {row.name:34} | {ours:9.3f} | {theirs} | {peak:7.2f} |", flush=True)


def versions() -> str:
    found = []
    for package in (
        "mlx-sd",
        "mlx",
        "torch",
        "diffusers",
        "stable-diffusion-cpp-python",
    ):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def about() -> str:
    return f"{backend.device_name()}; {versions()}; commit {commit()}"


def write_results(name: str, figures: dict[str, Any]) -> Path:
    """As JSON, dated, in results/."""
    today = datetime.date.today().isoformat()
    path = Path(__file__).parent / "results" / f"{name}-{today}.json"
    path.write_text(json.dumps({"about": about(), **figures}, indent=1) + "\n")
    return path


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"
