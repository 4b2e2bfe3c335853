"""How recorded networks grow on an NVIDIA GPU, in float16, with size, batch and steps.

SD 1.5's networks on random weights, and pictures of the bundled model. Memory is a
recording's, beside the weights. An exponent is the slope of a line through logarithms,
over pixels for sizes: 1 is proportional to them, 2 is attention among all of them.
Prints tables and writes a JSON file into benchmarks/results.
"""

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
from bench_cuda import median, normal
from common import VAE, commit, in_dtype, versions

from mlx_sd import Request, backend, load
from mlx_sd.bench import SD1_UNET
from mlx_sd.cuda import blas
from mlx_sd.cuda.unet import FastUNet
from mlx_sd.cuda.vae import FastDecoder
from mlx_sd.models.unet import UNet
from mlx_sd.models.vae import AutoencoderKL

SIDES = (256, 512, 768, 1024, 1536, 2048)
BATCHES = (1, 2, 4, 8, 16)
STEPS = (5, 10, 20, 40, 80)
TAIL = 3  # points at the end that tell the exponent of what grows fastest


def unet(net: UNet, side: int, batch: int) -> dict[str, float]:
    """A guided step."""
    size, twice = side // 8, 2 * batch
    x, context = normal(twice, size, size, 4), normal(twice, 77, 768)
    t, fast = mx.full((twice,), 500.0), FastUNet(net, wait=0)
    ahead = 5 if side * side * batch < 1 << 21 else 1

    def steps() -> None:
        mx.eval([fast(x, t, context) for _ in range(ahead)])

    ms = median(steps, warm=1, runs=3) / ahead
    return {"ms": ms, "GB": fast._recorded._step.bytes / 1e9}


def decode(vae: AutoencoderKL, side: int) -> dict[str, float]:
    z, fast = normal(1, side // 8, side // 8, 4), FastDecoder(vae, wait=0)
    ms = median(lambda: mx.eval(fast(z)), warm=1, runs=3)
    return {"ms": ms, "GB": fast._recorded._recording.bytes / 1e9}


def picture(count: int) -> dict[str, float]:
    pipeline, request = load(), Request("a red house", steps=count, seed=1)
    return {"ms": median(lambda: pipeline(request), warm=12, runs=5)}


def grown(
    name: str, points: tuple[int, ...], squared: bool, at: Callable[[int], dict]
) -> dict:
    """What is measured at each point, and the exponents."""
    found = {}
    for point in points:
        start = time.perf_counter()
        found[point] = at(point)
        mx.clear_cache()
        text = ", ".join(f"{key} {value:.3g}" for key, value in found[point].items())
        print(
            f"{name} {point}: {text} ({time.perf_counter() - start:.0f} s)", flush=True
        )
    x = np.log(np.array(points, float) ** (2 if squared else 1))
    exponents = {}
    for key in next(iter(found.values())):
        y = np.log([found[point][key] for point in points])
        whole, tail = np.polyfit(x, y, 1)[0], np.polyfit(x[-TAIL:], y[-TAIL:], 1)[0]
        exponents[key] = {"all": round(whole, 2), f"last {TAIL}": round(tail, 2)}
    print(f"{name}: exponents {exponents}\n", flush=True)
    return {"points": found, "exponents": exponents}


def main() -> None:
    blas._PROPOSALS = 1  # to time all of them takes minutes at these sizes
    about = f"{backend.device_name()}; {versions()}; commit {commit()}"
    print(about)
    net, vae = in_dtype(UNet(SD1_UNET)), in_dtype(AutoencoderKL(VAE))
    results: dict[str, object] = {"about": about}
    folder = Path(__file__).parent / "results"
    path = folder / f"growth-cuda-{datetime.date.today().isoformat()}.json"
    for name, points, squared, at in (
        ("step by side", SIDES, True, lambda side: unet(net, side, 1)),
        ("step by batch", BATCHES, False, lambda batch: unet(net, 512, batch)),
        ("decode by side", SIDES, True, lambda side: decode(vae, side)),
        ("bundled model's picture by steps", STEPS, False, picture),
    ):
        results[name] = grown(name, points, squared, at)
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
