"""How far we are from transformers, diffusers and stable-diffusion.cpp, measured.

Run: python tests/parity.py   prints the table (5 GB, 4 minutes on two cores); the tests
hold the same numbers to their bounds.
"""

import gc
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import seeded
from PIL import Image

from mlx_sd import Pipeline, Request, backend, load
from mlx_sd.opening import open_source
from mlx_sd.source import Source

GOLDEN = Path(__file__).parent / "golden"
SHAPES = {"small": seeded.small_shapes, "full": seeded.sd1_shapes}

# 256x256 pixels, 4 steps, guidance 7, seed 42.
EULER = Request(
    prompt="a red house and a green tree under a night sky",
    negative_prompt="blurry",
    width=256,
    height=256,
    steps=4,
    sampling_method="euler",
)
REQUESTS = {
    "euler": EULER,
    "euler_a": replace(EULER, sampling_method="euler_a"),
    "dpmpp2m_karras": replace(EULER, sampling_method="dpm++2m", scheduler="karras"),
}


def error(ours: mx.array, reference: np.ndarray) -> float:
    """‖ours - reference‖ / ‖reference‖, in float64"""
    ours = np.array(ours.astype(mx.float32)).astype(np.float64)
    if ours.shape != reference.shape:
        raise ValueError(f"{ours.shape} is not {reference.shape}")
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def nhwc(x: np.ndarray) -> mx.array:
    return mx.array(x).transpose(0, 2, 3, 1)


def nchw(x: mx.array) -> mx.array:
    return x.transpose(0, 3, 1, 2)


def clip_errors(source: Source, size: str, dtype: mx.Dtype) -> Iterator[float]:
    """Of the last layer's states, and of the last but one's without the norm."""
    golden = np.load(GOLDEN / f"clip_{size}.npz")
    clip, every = source.build("clip_l", dtype), 8 if size == "full" else 1
    ids = mx.array(golden["ids"])
    yield error(clip(ids).hidden[..., ::every], golden["last"])
    hidden = clip(ids, clip_skip=2, normed=False).hidden
    yield error(hidden[..., ::every], golden["penultimate"])


def unet_errors(source: Source, size: str, dtype: mx.Dtype) -> Iterator[float]:
    golden = np.load(GOLDEN / f"unet_{size}.npz")
    unet = source.build("unet", dtype)
    cases = [name.removeprefix("time_") for name in golden if name.startswith("time_")]
    if size == "full" and dtype == mx.float16:
        cases = cases[:1]  # scalar code on a CPU: 10 s each
    for case in cases:
        latent = golden[f"latent_{case}"]
        out = unet(
            nhwc(latent).astype(dtype),
            mx.full((len(latent),), float(golden[f"time_{case}"])),
            mx.array(golden[f"context_{case}"]).astype(dtype),
        )
        assert out.dtype == dtype
        yield error(nchw(out), golden[f"noise_{case}"])


def decoder_errors(source: Source, size: str, dtype: mx.Dtype) -> Iterator[float]:
    golden = np.load(GOLDEN / f"vae_{size}.npz")
    out = source.build("vae", dtype).decode(nhwc(golden["latent"]).astype(dtype))
    yield error(nchw(out), golden["picture"])


def encoder_errors(source: Source, size: str, dtype: mx.Dtype) -> Iterator[float]:
    golden = np.load(GOLDEN / f"vae_{size}.npz")
    moments = source.build("vae", dtype).encode(nhwc(golden["image"]).astype(dtype))
    yield error(nchw(moments.mean), golden["mean"])
    yield error(nchw(moments.logvar), golden["logvar"])


COMPONENTS = {
    "CLIP text encoder": clip_errors,
    "UNet": unet_errors,
    "VAE decoder": decoder_errors,
    "VAE encoder": encoder_errors,
}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB, of 8-bit pictures of one shape; infinite if equal."""
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} is not {b.shape}")
    square = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / square)) if square else float("inf")


def picture(pipeline: Pipeline, name: str) -> tuple[float, float, float]:
    """Latent error and PSNR against diffusers, PSNR against stable-diffusion.cpp."""
    *_, last, painted = pipeline.stream(REQUESTS[name])
    ours = np.asarray(painted.image)
    golden = np.load(GOLDEN / f"picture_{name}.npz")
    with Image.open(GOLDEN / f"sdcpp_{name}.png") as image:
        cpp = np.asarray(image.convert("RGB"))
    return (
        error(nchw(last.denoised), golden["latent"]),
        psnr(ours, golden["picture"]),
        psnr(ours, cpp),
    )


def main() -> None:
    print(f"{backend.device_name()}, {backend.blas().name}\n")
    print("| component | size | type | largest relative error |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size, shapes in SHAPES.items():
            path = Path(folder) / f"{size}.safetensors"
            seeded.save(path, shapes())
            source = open_source(path)
            for dtype in (mx.float32, mx.float16):
                for name, errors in COMPONENTS.items():
                    worst = max(errors(source, size, dtype))
                    kind = str(dtype).removeprefix("mlx.core.")
                    print(f"| {name} | {size} | {kind} | {worst:.1e} |", flush=True)
                    gc.collect()
        print("\n| picture | latent error | diffusers | stable-diffusion.cpp |")
        print("|---|---|---|---|")
        pipeline = load(path, dtype="f32")
        for name, request in REQUESTS.items():
            latent, diffusers, cpp = picture(pipeline, name)
            what = f"{request.sampling_method} {request.scheduler}"
            row = f"{latent:.1e} | {diffusers:.1f} dB | {cpp:.1f} dB"
            print(f"| {what} | {row} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
