"""How time and memory grow with a picture's size, with a batch, and with steps.

Every point is measured in a process of its own, on random weights at SD 1.5's sizes;
the steps are the bundled model's. An exponent is the slope of a line through the
logarithms, for sizes over the number of pixels: 1 is proportional to them, 2 is
attention among all of them. Memory is the process's on a CPU, and that of MLX's arrays
on a GPU. Prints tables, and writes JSON and a plot into results/.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
from chart import Curve, chart
from common import VAE, about, in_dtype, write_results
from PIL import Image
from processes import is_child, run

from mlx_sd import Request, backend, load
from mlx_sd.bench import SD1_UNET, unet_step
from mlx_sd.kernels.dispatch import backend as kind
from mlx_sd.models import vae_bands
from mlx_sd.models.vae import AutoencoderKL
from mlx_sd.tiling import Tiling

SIDES = (256, 512, 768, 1024, 1536, 2048)
BATCHES = (1, 2, 4, 8, 16)
STEPS = (5, 10, 20, 40, 80)
PATIENCE = 15  # seconds: as long as all runs took less, there is another

Figure = dict[str, float]


def measured(work: Callable[[], object]) -> Figure:
    """Seconds, of up to four runs after a first one; and GB of arrays."""
    taken: list[float] = []
    while len(taken) < 5 and sum(taken) < PATIENCE:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    seconds = statistics.median(taken[1:] or taken)
    return {"s": seconds, "arrays GB": mx.get_peak_memory() / 1e9}


def step(side: str, batch: str) -> Figure:
    """A guided step, which is the UNet on twice as many latents."""
    dtype = backend.compute_dtype()
    return measured(unet_step(SD1_UNET, int(side) // 8, 2 * int(batch), dtype))


def decode(side: str, tiled: str) -> Figure:
    model, latent = in_dtype(AutoencoderKL(VAE)), int(side) // 8
    z = mx.random.normal((1, latent, latent, 4)).astype(backend.compute_dtype())
    pixels = Tiling().pixels(latent, latent)

    def whole() -> None:
        mx.eval(model.decode(z))

    def banded() -> None:
        with backend.frugal():
            vae_bands.decode(model, z, pixels)

    return measured(banded if tiled == "tiled" else whole)


def steps(count: str) -> Figure:
    os.environ["MLX_SD_RECORDING"] = "off"  # which growth_cuda.py measures
    pipeline, request = load(), Request("a red house", steps=int(count), seed=1)
    return measured(lambda: pipeline(request))


JOBS = (step, decode, steps)


def point(job: Callable[..., Figure], *arguments: object) -> Figure:
    found = run(job, *arguments)
    whole = found.peak / 1e9 if kind() == "cpu" else found.returned["arrays GB"]
    return {"s": found.returned["s"], "GB": whole}


def exponent(curve: Curve) -> float:
    x, y = np.log(np.array(curve)).T
    return float(np.polyfit(x, y, 1)[0])


def row(title: str, found: dict[int, Figure], key: str, power: int) -> str:
    """A line of the table; exponents of all points, and of the last two."""
    curve = [(float(x**power), figure[key]) for x, figure in found.items()]
    cells = [f"{y:.2f}" if y > 0.1 else f"{y:.4f}" for _, y in curve]
    slopes = f"{exponent(curve):.2f}, {exponent(curve[-2:]):.2f}"
    return f"| {title}, {key} | {' | '.join(cells)} | {slopes} |"


def table(title: str, works: dict[str, dict[int, Figure]]) -> None:
    over = list(next(iter(works.values())))
    print(f"\n| {title} | {' | '.join(map(str, over))} | exponent: all, last two |")
    print("|---" * (len(over) + 2) + "|")
    for name, found in works.items():
        for key in ("s", "GB"):
            print(row(name, found, key, power=2 if title.startswith("side") else 1))


def plot(tables: dict[str, dict[str, dict[int, Figure]]]) -> Image.Image:
    """A chart of times and one of memory for each table, below each other."""
    charts = []
    for title, works in tables.items():
        for key, what in (("s", "seconds"), ("GB", "GB")):
            curves = {
                name: [(float(x), f[key]) for x, f in found.items()]
                for name, found in works.items()
            }
            charts.append(chart(f"{what}, by {title}", curves))
    width, height = charts[0].size
    sheet = Image.new("RGB", (2 * width, len(charts) // 2 * height), "white")
    for i, one in enumerate(charts):
        sheet.paste(one, (i % 2 * width, i // 2 * height))
    return sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS)


def main() -> None:
    if is_child(JOBS):
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--largest", type=int, help="side in pixels; writes nothing")
    largest = parser.parse_args().largest
    print(about())
    tables: dict[str, dict[str, dict[int, Figure]]] = {}

    def add(title: str, name: str, points: Sequence[int], at: Callable) -> None:
        found = tables.setdefault(title, {})[name] = {x: at(x) for x in points}
        table(title, {name: found})

    side, sides = "side of the picture", [x for x in SIDES if x <= (largest or x)]
    add(side, "guided step", sides, lambda x: point(step, x, 1))
    add(side, "VAE decode", sides, lambda x: point(decode, x, "whole"))
    add(side, "VAE decode in tiles", sides, lambda x: point(decode, x, "tiled"))
    add("batch at 512x512", "guided step", BATCHES, lambda x: point(step, 512, x))
    add("steps", "bundled model's picture", STEPS, lambda x: point(steps, x))
    if largest:
        return
    path = write_results(f"growth-{kind()}", {"tables": tables})
    plot(tables).save(path.with_suffix(".png"))
    print(f"\nwritten: {path} and its .png")


if __name__ == "__main__":
    main()
