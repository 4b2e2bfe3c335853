"""How fast this machine paints: the networks at their real sizes, on random weights.

Time does not depend on a weight's value.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from . import backend
from .models.clip import ClipConfig, ClipText
from .models.unet import UNet, UNetConfig
from .models.vae import AutoencoderKL, CoderConfig, VaeConfig
from .pipeline import load
from .request import Request

SD1_UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    widths=(320, 640, 1280, 1280),
    heads=(8, 8, 8, 8),
    context_width=768,
    time_width=1280,
    down=((1, 1), (1, 1), (1, 1), (0, 0)),
    mid=(1, 0),
    up=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    vector_width=None,
    linear_projections=False,
    only_cross=(False,) * 4,
    guidance_width=None,
)
SDXL_UNET = replace(
    SD1_UNET,
    widths=(320, 640, 1280),
    heads=(5, 10, 20),
    context_width=2048,
    down=((0, 0), (2, 2), (10, 10)),
    mid=(10, 0),
    up=((10, 10, 10), (2, 2, 2), (0, 0, 0)),
    vector_width=2816,
    linear_projections=True,
    only_cross=(False,) * 3,
)
VAE = VaeConfig(
    channels=3,
    latent_channels=4,
    encoder=None,
    decoder=CoderConfig((128, 256, 512, 512), blocks=3),
    quant=True,
)
CLIP_L = ClipConfig(
    vocabulary=49408,
    positions=77,
    width=768,
    layers=12,
    heads=12,
    mlp_width=3072,
    activation="quick_gelu",
    projection=None,
    eos=49407,
)

Run = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    work: str
    seconds: float  # the median
    peak: int  # bytes of arrays, weights included


def in_dtype(model: nn.Module, dtype: mx.Dtype) -> nn.Module:
    """With evaluated weights of that type."""
    model.update(tree_map(lambda a: a.astype(dtype), model.parameters()))
    mx.eval(model.parameters())
    return model


def unet_step(config: UNetConfig, side: int, batch: int, dtype: mx.Dtype) -> Run:
    """A guided step for batch / 2 pictures of 8·side pixels each way."""
    model = in_dtype(UNet(config), dtype)
    x = mx.random.normal((batch // 2, side, side, config.in_channels)).astype(dtype)
    context = mx.random.normal((batch, 77, config.context_width)).astype(dtype)
    width, t = config.vector_width, mx.full((batch // 2,), 500.0)
    vector = mx.random.normal((batch, width)).astype(dtype) if width else None
    return lambda: mx.eval(model(x, t, context, vector))


def vae_decode(side: int, dtype: mx.Dtype) -> Run:
    """A picture of 8·side pixels each way."""
    model = in_dtype(AutoencoderKL(VAE), dtype)
    z = mx.random.normal((1, side, side, 4)).astype(dtype)
    return lambda: mx.eval(model.decode(z))


def text(dtype: mx.Dtype) -> Run:
    """CLIP-L on a prompt and a negative prompt."""
    model = in_dtype(ClipText(CLIP_L), dtype)
    ids = mx.random.randint(0, 49408, (2, 77))
    return lambda: mx.eval(model(ids).hidden)


def bundled(dtype: mx.Dtype) -> Run:
    pipeline, request = load(), Request("a red house under a night sky")
    return lambda: pipeline(request)


# Work → what sets it up. Those that ask for 8 GB or more are left out by default.
WORK: dict[str, Callable[[mx.Dtype], Run]] = {
    "picture by the bundled model, 20 steps": bundled,
    "SD 1.5 text encoder, 2 prompts": text,
    "SD 1.5 step with guidance, 512x512": lambda d: unet_step(SD1_UNET, 64, 2, d),
    "SD 1.5 VAE decode, 512x512": lambda d: vae_decode(64, d),
}
LARGE: dict[str, Callable[[mx.Dtype], Run]] = {
    "SD 1.5 step with guidance, 512x512, batch 8": lambda d: unet_step(
        SD1_UNET, 64, 16, d
    ),
    "VAE decode, 1024x1024": lambda d: vae_decode(128, d),
    "SDXL step with guidance, 1024x1024": lambda d: unet_step(SDXL_UNET, 128, 2, d),
}


def bench(runs: int, large: bool) -> Iterator[Timing]:
    """Each work once to warm up, then `runs` times."""
    dtype = backend.compute_dtype()
    for work, make in (WORK | (LARGE if large else {})).items():
        mx.reset_peak_memory()
        run, times = make(dtype), []
        run()
        for _ in range(runs):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        yield Timing(work, statistics.median(times), mx.get_peak_memory())
        del run
        gc.collect()
        mx.clear_cache()
