"""SD 1.5 from page cache to ready weights: time and peak memory of a fresh process.

Every load has a process of its own, and they take turns; a peak is what comes on top of
its imports. The floor is what the system needs to hand out as much memory and fill it,
in pages of 2 MB and on all cores.
"""

import argparse
import importlib.util
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from processes import main, run

from mlx_sd.opening import open_source
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


def peer(path: str, dtype: str, held: str) -> None:
    from stable_diffusion_cpp import StableDiffusion

    StableDiffusion(model_path=path, wtype=held, verbose=False)


def floor(size: str) -> int:
    array = np.empty(int(size), np.uint8)  # NumPy asks for pages of 2 MB, too
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda share: share.fill(1), np.array_split(array, 64)))
    return int(size)


def report(path: str, options: argparse.Namespace) -> None:
    print("| computes in | holds | load, s | floor, s | GB | peak / size | sd.cpp, s |")
    print("|-------------|-------|--------:|---------:|---:|------------:|----------:|")
    has_peer = importlib.util.find_spec("stable_diffusion_cpp") is not None
    for dtype, held in CASES:
        loads, floors, peers = [], [], []
        for _ in range(options.runs):
            loads.append(run(ours, path, dtype, held))
            floors.append(run(floor, loads[0].returned))
            if has_peer:
                peers.append(run(peer, path, dtype, held))
        size = loads[0].returned
        ratio = min(load.peak - load.before for load in loads) / size
        theirs = f"{min(peers).seconds:.2f}" if peers else "–"
        print(
            f"| {dtype} | {held} | {min(loads).seconds:.2f} "
            f"| {min(floors).seconds:.2f} | {size / 1e9:.2f} | {ratio:.2f} "
            f"| {theirs} |",
            flush=True,
        )


if __name__ == "__main__":
    main(__doc__, (ours, peer, floor), report)
