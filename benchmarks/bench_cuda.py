"""On an NVIDIA GPU, in float16: steps, decoding, pictures and memory, beside diffusers.

Each row runs in a process of its own, and so does each of the peer's. Warm times are
of recorded networks, see mlx_sd/cuda; steps follow one another, ours and the peer's,
as those of a picture do. Writes JSON and a plot into benchmarks/results.
"""

import argparse
import datetime
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
from chart import bars
from common import VAE, in_dtype
from common import about as describe
from processes import seeded_checkpoint

from mlx_sd import Request, load
from mlx_sd.bench import SD1_UNET, SDXL_UNET
from mlx_sd.cuda.unet import FastUNet
from mlx_sd.cuda.vae import FastDecoder
from mlx_sd.models.unet import UNet
from mlx_sd.models.vae import AutoencoderKL
from mlx_sd.tiling import Tiling

STEPS = 20
RECORDED = 24  # pictures of 4 steps or more, after which both networks are
GAP = 20  # us
# Row → what it measures, what the issue of speed aims at (ms or GB), the peer's row.
ROWS = {
    "step": ("SD 1.5 step with CFG, 512x512, ms", 6.0, "unet sd1 2 64"),
    "step8": ("SD 1.5 step with CFG, batch 8, ms", 33.0, "unet sd1 16 64"),
    "xl": ("SDXL step with CFG, 1024x1024, ms", 31.0, "unet sdxl 2 128"),
    "decode": ("VAE decode 512x512, ms", 8.0, "vae 64"),
    "decode1024": ("VAE decode 1024x1024, ms", 35.0, "vae 128"),
    "picture": (f"SD 1.5 picture, {STEPS} steps, warm, ms", 200.0, ""),
    "memory f16": ("SD 1.5 picture, peak memory f16, GB", 2.6, ""),
    "memory q8_0": ("SD 1.5 picture, peak memory q8_0, GB", 1.6, ""),
    "memory q4_0": ("SD 1.5 picture, peak memory q4_0, GB", 1.2, ""),
    "memory xl": ("SDXL 1024x1024 in tiles, memory q4_0, GB", 4.6, ""),
}


def normal(*shape: int) -> mx.array:
    return mx.random.normal(shape).astype(mx.float16)


def median(run: Callable[[], object], warm: int = 3, runs: int = 20) -> float:
    """Milliseconds."""
    for _ in range(warm):
        run()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def unet(config, batch: int, side: int) -> dict[str, float]:
    """Two texts for each latent; recorded, and as MLX's own operations."""
    net, ahead = in_dtype(UNet(config)), 10
    x = normal(batch // 2, side, side, 4)
    context = normal(batch, 77, config.context_width)
    width = config.vector_width
    vector = None if width is None else normal(batch, width)
    t = mx.full((batch // 2,), 500.0)
    eager = median(lambda: mx.eval(net(x, t, context, vector)), runs=5)
    mx.clear_cache()
    start = time.perf_counter()
    fast = FastUNet(net, wait=0)
    mx.eval(fast(x, t, context, vector))
    first = time.perf_counter() - start

    def steps() -> None:
        mx.eval([fast(x, t, context, vector) for _ in range(ahead)])

    ours = median(steps, runs=10) / ahead
    return {"ours": ours, "as operations": eager, "first, s": first}


def decode(side: int) -> dict[str, float]:
    vae = in_dtype(AutoencoderKL(VAE))
    z = normal(1, side, side, 4)
    eager = median(lambda: mx.eval(vae.decode(z)), runs=5)
    mx.clear_cache()
    start = time.perf_counter()
    fast = FastDecoder(vae, wait=0)
    mx.eval(fast(z))
    first = time.perf_counter() - start
    ours = median(lambda: mx.eval(fast(z)))
    return {"ours": ours, "as operations": eager, "first, s": first}


def picture(path: str) -> dict[str, float]:
    """From prompt to picture, the model loaded, the texts known from before."""
    pipeline = load(path)
    request = Request(prompt="a lighthouse", steps=STEPS, width=512, height=512, seed=1)
    start = time.perf_counter()
    pipeline(request)
    first = time.perf_counter() - start
    ours = median(lambda: pipeline(request), warm=RECORDED, runs=10)
    return {"ours": ours, "first, s": first, **idle(lambda: pipeline(request))}


def idle(run: Callable[[], object], runs: int = 3) -> dict[str, float]:
    """How much of the time no kernel runs, by torch's profiler; nothing without torch.

    Gaps of more than 20 us are those in which the GPU waits for the CPU. The kernel
    that waits for a recording's result is none that works.
    """
    try:
        import torch
    except ImportError:
        return {}
    torch.zeros(1, device="cuda")
    cuda = torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[cuda], acc_events=True) as profiler:
        mx.synchronize()
        start = time.perf_counter()
        for _ in range(runs):
            run()
        whole = 1e6 * (time.perf_counter() - start)
    kernels = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
        and "mlx_sd_hear" not in event.name
    )
    busy, short, end = 0.0, 0.0, kernels[0][0]
    for begins, ends in kernels:
        short += max(0.0, begins - end) if begins - end <= GAP else 0.0
        busy += max(0.0, ends - max(begins, end))
        end = max(end, ends)
    return {
        "waits for the CPU, %": 100 * (whole - busy - short) / whole,
        "between kernels, %": 100 * short / whole,
    }


def memory(path: str, type: str) -> dict[str, float]:
    """The most that arrays take, and at the end with MLX's cache of freed ones."""
    xl = type == "xl"
    held = {"f16": None, "xl": "q4_0"}.get(type, type)
    pipeline = load(path, type=held, vae_tiling=Tiling() if xl else None)
    side, more = (1024, 1) if xl else (512, RECORDED)
    request = Request("a lighthouse", steps=4, width=side, height=side, seed=1)
    pipeline(request)
    first = mx.get_peak_memory()
    for _ in range(more):
        pipeline(request)
    found = {"ours": mx.get_peak_memory(), "first picture, GB": first}
    found["with cache, GB"] = mx.get_active_memory() + mx.get_cache_memory()
    return {name: size / 1e9 for name, size in found.items()} | {"card, GB": used()}


def used() -> float:
    """GB of the card, by all processes, contexts and libraries."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True)
    return float(done.stdout.split()[0]) * 2**20 / 1e9 if done.stdout else math.nan


def measure(row: str, path: str) -> dict[str, float]:
    kind, _, detail = row.partition(" ")
    if kind == "memory":
        return memory(path, detail)
    return {
        "step": lambda: unet(SD1_UNET, 2, 64),
        "step8": lambda: unet(SD1_UNET, 16, 64),
        "xl": lambda: unet(SDXL_UNET, 2, 128),
        "decode": lambda: decode(64),
        "decode1024": lambda: decode(128),
        "picture": lambda: picture(path),
    }[kind]()


def sdxl_checkpoint(folder: str) -> str:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import full_families

    return str(full_families.write("SDXL", Path(folder) / "sdxl.safetensors"))


def child(*arguments: str, seconds: int = 600) -> dict[str, float]:
    """What a process of Python prints last, which is JSON; nothing if it fails."""
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"{arguments} took more than {seconds} s", file=sys.stderr)
        return {}
    if done.returncode:
        print(f"{arguments} failed:\n{done.stderr[-1500:]}", file=sys.stderr)
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def report(
    rows: list[str],
    peer: bool,
    modes: str,
    keep: Callable[[dict[str, dict[str, float]]], None],
) -> None:
    """Prints the table; `keep` is given what is known after each row."""
    here = Path(__file__).parent
    results: dict[str, dict[str, float]] = {}
    before = used()
    print("| what | mlx-sd | aim | diffusers | its best / ours |")
    print("|---|---:|---:|---|---:|")
    with tempfile.TemporaryDirectory() as folder:
        files: dict[bool, str] = {}  # by whether it is SDXL's
        for row in rows:
            what, aim, theirs = ROWS[row]
            kind, _, detail = row.partition(" ")
            if kind in ("picture", "memory") and (detail == "xl") not in files:
                make = sdxl_checkpoint if detail == "xl" else seeded_checkpoint
                files[detail == "xl"] = make(folder)
            path = files.get(detail == "xl", "")
            result = child(__file__, "--measure", row, "--path", path)
            if "card, GB" in result:
                result["card, GB"] -= before
            other: dict[str, float] = {}
            if peer and theirs:
                other = child(str(here / "peer_cuda.py"), modes, *theirs.split())
            results[row] = {**result, **{f"diffusers {k}": v for k, v in other.items()}}
            ours = result.get("ours")
            said = ", ".join(f"{k} {v:.2f}" for k, v in other.items()) or "–"
            ratio = f"{min(other.values()) / ours:.2f}" if ours and other else "–"
            mine = f"{ours:.2f}" if ours else "failed"
            print(f"| {what} | {mine} | {aim:g} | {said} | {ratio} |", flush=True)
            more = {k: round(v, 2) for k, v in result.items() if k != "ours"}
            print(f"  {row}: {more}", file=sys.stderr, flush=True)
            keep(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--rows", help="comma-separated, all if not given; writes only with --output"
    )
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--modes", default="eager,graph,compiled", help="of the peer")
    parser.add_argument("--output", type=Path, help="folder for the JSON file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--path", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.path)))
        return
    rows = options.rows.split(",") if options.rows else list(ROWS)
    print(about := describe())
    folder = options.output or Path(__file__).parent / "results"
    if options.rows and not options.output:
        return report(rows, not options.no_peer, options.modes, lambda results: None)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"cuda-{datetime.date.today().isoformat()}.json"

    def keep(results: dict[str, dict[str, float]]) -> None:
        path.write_text(json.dumps({"about": about, "rows": results}, indent=1) + "\n")

    report(rows, not options.no_peer, options.modes, keep)
    kept = json.loads(path.read_text())["rows"]
    plotted = {ROWS[row][0]: beside(row, kept[row]) for row in kept}
    bars(about, plotted).save(path.with_suffix(".png"))
    print(f"written: {path} and its .png")


def beside(row: str, found: dict[str, float]) -> dict[str, float]:
    """What the plot compares: ours, the aim, and the peer's."""
    theirs = {name: value for name, value in found.items() if "diffusers" in name}
    return {"mlx-sd": found.get("ours", 0.0), "aim": ROWS[row][1], **theirs}


if __name__ == "__main__":
    main()
