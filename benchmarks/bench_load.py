"""SD 1.5 from page cache to ready weights: time and peak memory of a fresh process.

Every load has a process of its own, and they take turns. The floor is what the system
needs to hand out as much memory and fill it, in pages of 2 MB and on all cores.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np
from common import commit, versions
from mlx.utils import tree_flatten

from mlx_sd import backend
from mlx_sd.load import open_source
from mlx_sd.quantize import parse_rules

CASES = (  # (computes in, holds weights in)
    *(("f16", "f16"), ("f32", "f32"), ("f32", "f16")),
    *(("f32", "q8_0"), ("f32", "q5_1"), ("f32", "q4_0")),
)


def ours(path: str, dtype: str, held: str) -> int:
    """Load all parts; returns the bytes of their weights."""
    source, types = open_source(path), parse_rules(held, None)
    wanted = {"f16": mx.float16, "f32": mx.float32}[dtype]
    parts = [source.build(part, wanted, types) for part in source.contents.parts]
    arrays = [array for part in parts for _, array in tree_flatten(part.parameters())]
    return sum(array.nbytes for array in arrays)


def peer(path: str, dtype: str, held: str) -> int:
    from stable_diffusion_cpp import StableDiffusion

    StableDiffusion(model_path=path, wtype=held, verbose=False)
    return 0  # it does not say


def floor(size: str) -> int:
    array = np.empty(int(size), np.uint8)  # NumPy asks for pages of 2 MB, too
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda share: share.fill(1), np.array_split(array, 64)))
    return int(size)


def peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(name: str, *arguments: str) -> None:
    """In a process of its own: prints seconds, bytes of weights, bytes of the peak."""
    before, start = peak(), time.perf_counter()
    size = {"ours": ours, "peer": peer, "floor": floor}[name](*arguments)
    print(json.dumps((time.perf_counter() - start, size, peak() - before)))


def run(*arguments: object) -> tuple[float, int, int]:
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def seeded_checkpoint(folder: str) -> str:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import seeded

    path = Path(folder) / "sd15.safetensors"
    seeded.save(path, seeded.sd1_shapes())
    return str(path)


def report(path: str, runs: int) -> None:
    print(f"{backend.device_name()}; {versions()}; commit {commit()}")
    print(f"best of {runs} runs; peak is above what the process had before\n")
    print("| computes in | holds | load, s | floor, s | GB | peak / size | sd.cpp, s |")
    print("|-------------|-------|--------:|---------:|---:|------------:|----------:|")
    has_peer = importlib.util.find_spec("stable_diffusion_cpp") is not None
    for dtype, held in CASES:
        loads, floors, peers = [], [], []
        for _ in range(runs):
            loads.append(run("ours", path, dtype, held))
            floors.append(run("floor", loads[0][1]))
            if has_peer:
                peers.append(run("peer", path, dtype, held))
        seconds, size, _ = min(loads)
        ratio = min(high for _, _, high in loads) / size
        theirs = f"{min(peers)[0]:.2f}" if peers else "–"
        print(
            f"| {dtype} | {held} | {seconds:.2f} | {min(floors)[0]:.2f} "
            f"| {size / 1e9:.2f} | {ratio:.2f} | {theirs} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", help="an SD 1.5 file in float16")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or seeded_checkpoint(folder)
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 24):
                pass  # into the page cache
        report(path, args.runs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        main()
