"""SD 1.5's VAE in tiles beside in one piece: distance, memory, time; and a picture.

Memory is over the weights: MLX's own count, and the process's as the system has it.
"""

import argparse
import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
from common import VAE, commit, in_dtype, versions

from mlx_sd import Request, backend, load
from mlx_sd.image import to_pil
from mlx_sd.models import vae_bands
from mlx_sd.models.vae import AutoencoderKL
from mlx_sd.tiling import Tiling

PROMPT = "a red house and a green tree under a night sky"
STEP = 0.02  # seconds from one look at the process's memory to the next


def resident() -> float:
    """GB that the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e9


def measured(run: Callable[[], mx.array]) -> tuple[mx.array, str]:
    """What it gives, evaluated, and a table's cells: seconds, GB, GB."""
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    before, least = mx.get_active_memory() / 1e9, resident()
    most, done = [least], threading.Event()

    def watch() -> None:
        while not done.wait(STEP):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    mx.eval(out := run())
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    peak = mx.get_peak_memory() / 1e9 - before
    return out, f"{seconds:7.1f} | {peak:6.2f} | {most[0] - least:6.2f}"


def table(size: int, whole: bool) -> None:
    model = in_dtype(AutoencoderKL(VAE))
    side = size // 8
    z = 5 * mx.random.normal((1, side, side, 4), key=mx.random.key(0))
    z = z.astype(backend.compute_dtype())

    def tiled() -> mx.array:
        with backend.frugal():
            return vae_bands.decode(model, z, Tiling().pixels(side, side))

    print(f"{backend.device_name()}; {versions()}; commit {commit()}\n")
    print("| decode | s | peak GB | process GB | mean, largest difference of 255 |")
    print("|---|--:|--:|--:|---|")
    pieces, cells = measured(tiled)
    print(f"| {size}x{size} in tiles | {cells} | |", flush=True)
    if whole:
        one, cells = measured(lambda: model.decode(z))
        far = mx.abs(one - pieces).astype(mx.float32) * 127.5
        off = f"{far.mean().item():.1e}, {far.max().item():.1e}"
        print(f"| {size}x{size} in one piece | {cells} | {off} |", flush=True)


def sheet(size: int, path: str) -> None:
    """In one piece, in tiles, and their difference 20 times as large."""
    request = Request(PROMPT, width=size, height=size)
    pictures = [
        np.asarray(load(dtype="f32", vae_tiling=tiling)(request)[0], float)
        for tiling in (None, Tiling(size=(8, 8)))
    ]
    difference = np.abs(pictures[0] - pictures[1])
    print(f"bundled model, {size}x{size}, tiles of 8x8 latent pixels: {path}")
    print(
        f"mean difference {difference.mean():.1e}, largest {difference.max():.0f}/255"
    )
    row = np.concatenate([*pictures, np.minimum(20 * difference, 255)], axis=1)
    to_pil(mx.array(row / 127.5 - 1)).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--tiles-alone", action="store_true")
    parser.add_argument("--output", help="a picture by the bundled model, to look at")
    args = parser.parse_args()
    if args.output:
        sheet(256, args.output)
    else:
        table(args.size, not args.tiles_alone)
