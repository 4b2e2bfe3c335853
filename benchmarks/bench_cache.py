"""What caches over steps save and cost: time, and the pictures of the bundled model.

Each setting paints the same held-out prompts with the same seeds; "as uncached" is the
PSNR of its pictures against those without a cache, "attributes" the share of what the
prompts name that is there (mlx_sd.demo.score).
"""

import argparse
import itertools
import statistics
import time

import numpy as np
from common import about

from mlx_sd import Request, load
from mlx_sd.demo.captions import describe
from mlx_sd.demo.report import summary
from mlx_sd.demo.scenes import stream
from mlx_sd.demo.score import read, score

SETTINGS = (
    (None, ""),
    ("ucache", ""),
    ("ucache", "threshold=0.5"),
    ("ucache", "reset=0"),
    ("deepcache", "cache_interval=2"),
    ("deepcache", ""),
    ("deepcache", "cache_interval=2,cache_branch_id=3"),
    ("spectrum", ""),
)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    square = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return 10 * float(np.log10(255**2 / square)) if square else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sampling-method", default="dpm++2m")
    args = parser.parse_args()
    print(about())
    print(f"{args.prompts} prompts, {args.steps} steps, {args.sampling_method}\n")
    pipeline = load()
    scenes = [
        (scene, describe(scene, rng))
        for scene, rng in itertools.islice(stream(18, held=True), args.prompts)
    ]
    plain: list[np.ndarray] = []
    print("| cache | options | time | as uncached, dB | attributes |")
    print("|---|---|---|---|---|")
    seconds = 0.0
    for mode, option in SETTINGS:
        start, pictures, found = time.perf_counter(), [], []
        for seed, (scene, caption) in enumerate(scenes):
            request = Request(
                caption.text,
                seed=seed,
                steps=args.steps,
                sampling_method=args.sampling_method,
                cache_mode=mode,
                cache_option=option,
            )
            pictures.append(np.asarray(pipeline(request)[0]))
            found.append(score(read(pictures[-1]), scene, caption))
        took = time.perf_counter() - start
        plain, seconds = plain or pictures, seconds or took
        near = statistics.median(map(psnr, pictures, plain))
        share = summary(found).split(" of ")[0]
        cells = mode or "–", option or "–", f"{took / seconds:.2f}", f"{near:.1f}"
        print("| " + " | ".join([*cells, share]) + " |", flush=True)


if __name__ == "__main__":
    main()
