"""SD 1.5 on a CPU beside diffusers and stable-diffusion.cpp: time and memory.

Every job has a process of its own, and ours and the peers' take turns. Beside the time
on the clock stands the cores' time, which suffers less from other work on the machine.
The file is in float16; diffusers computes in float32, as we do.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
from chart import bars
from common import UNET, VAE, about, in_dtype, write_results
from processes import Job, main, run

from mlx_sd import Request, load
from mlx_sd.models.unet import UNet
from mlx_sd.models.vae import AutoencoderKL

Seconds = tuple[float, float]  # on the clock, and of all cores together
CPP = "stable-diffusion.cpp"
REQUEST = Request(prompt="a red house", steps=2, seed=1, width=512, height=512)


def clocked(work: Callable[[], object], warm: bool = True) -> Seconds:
    if warm:
        work()
    wall, cores = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cores


def unet() -> Seconds:
    """One latent for two texts, as a sampler calls it."""
    model, t = in_dtype(UNet(UNET)), mx.full((1,), 500.0)
    x, context = mx.random.normal((1, 64, 64, 4)), mx.random.normal((2, 77, 768))
    return clocked(lambda: mx.eval(model(x, t, context)))


def vae() -> Seconds:
    model, z = in_dtype(AutoencoderKL(VAE)), mx.random.normal((1, 64, 64, 4))
    return clocked(lambda: mx.eval(model.decode(z)))


def diffusers_unet() -> Seconds:
    import peer
    import torch

    torch.set_grad_enabled(False)
    model, t = peer.unet("cpu", torch.float32), torch.full((2,), 500.0)
    x, context = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768)
    return clocked(lambda: model(x, t, context))


def diffusers_vae() -> Seconds:
    import peer
    import torch

    torch.set_grad_enabled(False)
    model, z = peer.vae("cpu", torch.float32), torch.randn(1, 4, 64, 64)
    return clocked(lambda: model.decode(z))


def sdcpp(path: str) -> tuple[Seconds, Seconds]:
    """A guided step, the last one; and the decoding that follows it."""
    import stable_diffusion_cpp

    cores = len(os.sched_getaffinity(0))  # left to itself, it uses half of them here
    model = stable_diffusion_cpp.StableDiffusion(
        model_path=path, n_threads=cores, verbose=False
    )
    marks = []

    def progress(*_: object) -> None:
        marks.append((time.perf_counter(), time.process_time()))

    model.generate_image(
        prompt=REQUEST.prompt,
        width=REQUEST.width,
        height=REQUEST.height,
        sample_steps=REQUEST.steps,
        progress_callback=progress,
    )
    progress()
    (w0, c0), (w1, c1), (w2, c2) = marks[-3:]
    return (w1 - w0, c1 - c0), (w2 - w1, c2 - c1)


def picture(path: str, held: str) -> None:
    """As the command line paints its last one."""
    for _ in load(path, type=held).stream(REQUEST, keep=False):
        pass


def first_step(path: str) -> float:
    """Seconds from nothing loaded to the UNet's first call."""

    class Started(Exception):
        pass

    def call(*_: object, **__: object) -> None:
        raise Started

    UNet.__call__ = call
    start = time.perf_counter()
    try:
        load(path)(REQUEST)
    except Started:
        return time.perf_counter() - start
    raise SystemExit("the UNet was not called")


def command(*arguments: str) -> Seconds:
    program = Path(sys.executable).with_name("mlx-sd")
    call = [str(program), *arguments]
    return clocked(lambda: subprocess.run(call, check=True, capture_output=True))


def demo() -> Seconds:
    with tempfile.TemporaryDirectory() as folder:
        return command("generate", "-p", "a red house", "-o", f"{folder}/x.png")


def usage() -> Seconds:
    return command("--help")


def medians(jobs: list[Job], runs: int) -> list[list[float]]:
    """[seconds on the clock, seconds of cores] of each job, in turns."""
    found: list[list[Seconds]] = [[] for _ in jobs]
    for _ in range(runs):
        for job, record in zip(jobs, found, strict=True):
            record.append(run(job).returned)
    return [
        [statistics.median(column) for column in zip(*r, strict=True)] for r in found
    ]


def beside_peers(path: str, runs: int) -> dict[str, dict[str, list[float]]]:
    has_torch = importlib.util.find_spec("diffusers") is not None
    has_cpp = importlib.util.find_spec("stable_diffusion_cpp") is not None
    theirs = run(sdcpp, path).returned if has_cpp else [None, None]
    print("| work | mlx-sd | diffusers | ratio | stable-diffusion.cpp | ratio |")
    print("|---|---|---|---|---|---|")
    rows = (
        ("guided step 512x512", unet, diffusers_unet, theirs[0]),
        ("VAE decode 512x512", vae, diffusers_vae, theirs[1]),
    )
    results = {}
    for name, ours, peer, cpp in rows:
        found = medians([ours, peer] if has_torch else [ours], runs)
        peers = {"diffusers": found[1] if has_torch else None, CPP: cpp}
        cells = [f"{name} | {shown(found[0])}"]
        for other in peers.values():
            cells.append(f"{shown(other)} | {ratio(found[0], other)}" if other else "–")
        print(f"| {' | '.join(cells)} |", flush=True)
        measured = {who: figure for who, figure in peers.items() if figure}
        results[name] = {"mlx-sd": found[0], **measured}
    return results


def shown(seconds: list[float]) -> str:
    return f"{seconds[0]:.2f} s ({seconds[1]:.1f})"


def ratio(ours: list[float], theirs: list[float]) -> str:
    wall, cores = (a / b for a, b in zip(ours, theirs, strict=True))
    return f"{wall:.2f} ({cores:.2f})"


def report(path: str, options: argparse.Namespace) -> None:
    print("In brackets: seconds of all cores together, and their ratios.\n")
    beside = {} if options.alone else beside_peers(path, options.runs)
    figures: dict[str, float] = {}

    def row(name: str, value: float, unit: str) -> None:
        figures[f"{name}, {unit}"] = value
        print(f"| {name} | {value:.2f} {unit} |", flush=True)

    print("\n| work | |\n|---|---|")
    for name, job in (("bundled model, 20 steps", demo), ("--help", usage)):
        row(f"{name}, whole process", medians([job], options.runs)[0][0], "s")
    starts = [run(first_step, path).returned for _ in range(options.runs)]
    row("file to first step", statistics.median(starts), "s")
    for held in ("f16", "q8_0", "q4_0"):
        row(
            f"peak memory of a picture, {held}",
            run(picture, path, held).peak / 1e9,
            "GB",
        )
    row("peak memory of a VAE decode", run(vae).peak / 1e9, "GB")
    if options.alone:
        return
    written = write_results("cpu", {"beside peers": beside, "alone": figures})
    walls = {w: {k: s[0] for k, s in row.items()} for w, row in beside.items()}
    bars(f"seconds; {about()}", walls).save(written.with_suffix(".png"))
    print(f"\nwritten: {written} and its .png")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--alone", action="store_true", help="without the peers; writes nothing"
    )


if __name__ == "__main__":
    jobs = (unet, vae, diffusers_unet, diffusers_vae, sdcpp)
    jobs += (picture, first_step, demo, usage)
    main(__doc__, jobs, report, add_options)
