"""What a step costs beside the UNet: each sampler's arithmetic and noise at 512x512.

The network is replaced by a constant; noise is real. Beside it, the UNet's guided step.
"""

import time

import mlx.core as mx
from common import UNET, Row, commit, in_dtype, options, versions

from mlx_sd import backend
from mlx_sd.models.unet import UNet
from mlx_sd.sampling.levels import scaled_linear
from mlx_sd.sampling.noise import RNGS, latent_noise
from mlx_sd.sampling.samplers import SAMPLERS, walk
from mlx_sd.sampling.schedules import sigmas

STEPS = 20


def sampler(name: str) -> Row:
    table = scaled_linear()
    levels = sigmas("discrete", STEPS, table)
    rng = RNGS["cuda"](0)
    clean = latent_noise(rng, 64, 64, 4)
    answer = (clean, clean) if SAMPLERS[name].uncond else clean

    def run() -> None:
        x = latent_noise(rng, 64, 64, 4) * levels[0]
        for step in walk(
            name,
            lambda x, sigma: answer,
            x,
            levels,
            lambda: latent_noise(rng, 64, 64, 4),
            table=table,
        ):
            mx.eval(step.x)

    return Row(name, run, None)


def unet() -> Row:
    model = in_dtype(UNet(UNET))
    dtype = backend.compute_dtype()
    x, context = mx.random.normal((2, 64, 64, 4)), mx.random.normal((2, 77, 768))
    inputs = x.astype(dtype), mx.array([500.0, 500.0]), context.astype(dtype)
    return Row("UNet", lambda: mx.eval(model(*inputs)), None)


def best(row: Row, runs: int, steps: int) -> float:
    """Seconds a step, after a first run."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        row.ours()
        times.append((time.perf_counter() - start) / steps)
    return min(times[1:])


if __name__ == "__main__":
    args = options(__doc__)
    print(f"{backend.device_name()}; {versions()}; commit {commit()}")
    print(f"best of {args.runs} runs of {STEPS} steps, a constant for a network\n")
    print("| sampler | ms a step | of a UNet step |\n|---|---:|---:|")
    step = best(unet(), args.runs, 1)
    for name in SAMPLERS:
        own = best(sampler(name), args.runs, STEPS)
        print(f"| {name} | {1000 * own:.2f} | {own / step:.2%} |", flush=True)
    print(f"| (UNet, a guided step) | {1000 * step:.0f} | |")
