"""How recorded networks grow on an NVIDIA GPU, in float16, with size, batch and steps.

As bench_growth.py, which measures MLX's operations; memory is all that arrays take,
for SD 1.5's networks 1.9 GB of weights among it. In one process, as recording takes
seconds.
"""

from collections.abc import Callable

import mlx.core as mx
from bench_cuda import RECORDED, median, normal
from bench_growth import BATCHES, SIDES, STEPS, Figure, plot, table
from common import VAE, about, in_dtype, write_results

from mlx_sd import Request, load
from mlx_sd.bench import SD1_UNET
from mlx_sd.cuda import blas
from mlx_sd.cuda.unet import FastUNet
from mlx_sd.cuda.vae import FastDecoder
from mlx_sd.models.unet import UNet
from mlx_sd.models.vae import AutoencoderKL


def measured(work: Callable[[], object], times: int = 1) -> Figure:
    """Of one of `times` that the work does."""
    work()
    mx.reset_peak_memory()
    ms = median(work, warm=1, runs=3) / times
    found = {"s": ms / 1e3, "GB": mx.get_peak_memory() / 1e9}
    mx.clear_cache()
    return found


def step(net: UNet, side: int, batch: int) -> Figure:
    """A guided one."""
    size = side // 8
    x, context = normal(batch, size, size, 4), normal(2 * batch, 77, 768)
    t, fast = mx.full((batch,), 500.0), FastUNet(net, wait=0)
    ahead = 5 if side * side * batch < 1 << 21 else 1
    return measured(lambda: mx.eval([fast(x, t, context) for _ in range(ahead)]), ahead)


def decode(vae: AutoencoderKL, side: int) -> Figure:
    z, fast = normal(1, side // 8, side // 8, 4), FastDecoder(vae, wait=0)
    return measured(lambda: mx.eval(fast(z)))


def picture(count: int) -> Figure:
    pipeline, request = load(), Request("a red house", steps=count, seed=1)
    for _ in range(RECORDED):
        pipeline(request)
    return measured(lambda: pipeline(request))


def main() -> None:
    blas._PROPOSALS = 1  # to time all of them takes minutes at these sizes
    print(about())
    tables: dict[str, dict[str, dict[int, Figure]]] = {}

    def add(title: str, name: str, points: tuple[int, ...], at: Callable) -> None:
        found = tables.setdefault(title, {})[name] = {x: at(x) for x in points}
        table(title, {name: found})
        write_results("growth-recorded", {"tables": tables})

    add("steps", "bundled model's picture", STEPS, picture)
    net, vae = in_dtype(UNet(SD1_UNET)), in_dtype(AutoencoderKL(VAE))
    side = "side of the picture"
    add(side, "guided step", SIDES, lambda x: step(net, x, 1))
    add("batch at 512x512", "guided step", BATCHES, lambda x: step(net, 512, x))
    add(side, "VAE decode", SIDES, lambda x: decode(vae, x))
    path = write_results("growth-recorded", {"tables": tables})
    plot(tables).save(path.with_suffix(".png"))
    print(f"\nwritten: {path} and its .png")


if __name__ == "__main__":
    main()
