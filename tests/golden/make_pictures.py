"""Golden pictures: one request drawn by torch and by stable-diffusion.cpp.

Run: python tests/golden/make_pictures.py (torch, diffusers, transformers,
stable-diffusion-cpp-python; 8 GB, 5 min). Both read the full-size checkpoint of
tests/seeded.py, stable-diffusion.cpp from a 2 GB F16 file in a temporary folder.
The torch side is written here from the papers and k-diffusion, without mlx_sd.
"""

import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import seeded
from provenance import FOLDER, record

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "stable-diffusion-cpp-python",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class Request:
    """What stable-diffusion.cpp calls `--rng cuda` is the source of noise."""

    prompt: str
    negative: str
    width: int
    height: int
    steps: int
    cfg: float
    seed: int
    sampler: str
    schedule: str


BASE = Request(
    prompt="a red house and a green tree under a night sky",
    negative="blurry",
    width=256,
    height=256,
    steps=4,
    cfg=7.0,
    seed=42,
    sampler="euler",
    schedule="discrete",
)
REQUESTS = {
    "euler": BASE,
    "euler_a": replace(BASE, sampler="euler_a"),
    "dpmpp2m_karras": replace(BASE, sampler="dpm++2m", schedule="karras"),
}


# Noise and noise levels


def philox(shape: tuple[int, ...], seed: int, call: int) -> np.ndarray:
    """Unit normal float32 as CUDA's generator draws it: Philox 4x32-10, Box-Muller.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

    Args:
        call: how many arrays were drawn since seeding.
    """
    size = math.prod(shape)
    low = np.uint64(0xFFFFFFFF)
    counter = [np.full(size, call, np.uint64), np.zeros(size, np.uint64)]
    counter += [np.arange(size, dtype=np.uint64), np.zeros(size, np.uint64)]
    key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        a = counter[0] * np.uint64(0xD2511F53)
        b = counter[2] * np.uint64(0xCD9E8D57)
        counter = [
            b >> np.uint64(32) ^ counter[1] ^ np.uint64(key[0]),
            b & low,
            a >> np.uint64(32) ^ counter[3] ^ np.uint64(key[1]),
            a & low,
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    unit, turn = np.float32(2.3283064e-10), np.float32(2.3283064e-10 * 6.2831855)
    u = counter[0].astype(np.float32) * unit + unit / np.float32(2)
    v = counter[1].astype(np.float32) * turn + turn / np.float32(2)
    return (np.sqrt(np.float32(-2) * np.log(u)) * np.sin(v)).reshape(shape)


_BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
_KEPT = np.cumprod(1 - _BETAS)
_LOG_SIGMAS = np.log((1 - _KEPT) / _KEPT) / 2  # of the 1000 training steps, rising


def time_of(sigma: float) -> float:
    """Fractional training step of a noise level, linear in log sigma."""
    return float(np.interp(math.log(sigma), _LOG_SIGMAS, np.arange(1000)))


def noise_levels(schedule: str, steps: int) -> list[float]:
    """steps + 1 levels, the last 0."""
    if schedule == "discrete":
        times = np.linspace(999, 0, steps)
        sigmas = np.exp(np.interp(times, np.arange(1000), _LOG_SIGMAS))
    else:  # karras
        first, last = np.exp(_LOG_SIGMAS[[-1, 0]]) ** (1 / 7)
        sigmas = (first + np.linspace(0, 1, steps) * (last - first)) ** 7
    return [*map(float, sigmas), 0.0]


# Samplers: (denoise, x, sigmas, noise of call k) -> x


def euler(denoise: Callable, x: np.ndarray, sigmas: list[float], _) -> np.ndarray:
    for sigma, target in zip(sigmas, sigmas[1:], strict=False):
        clean = denoise(x, sigma)
        x = x + (x - clean) / sigma * (target - sigma)
    return x


def euler_a(denoise: Callable, x: np.ndarray, sigmas: list[float], noise: Callable):
    for step, (sigma, target) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        clean = denoise(x, sigma)
        up = math.sqrt(target**2 * (sigma**2 - target**2) / sigma**2)
        down = math.sqrt(target**2 - up**2)
        x = x + (x - clean) / sigma * (down - sigma)
        if target > 0:
            x = x + up * noise(step + 1)  # call 0 was the initial noise
    return x


def dpmpp_2m(denoise: Callable, x: np.ndarray, sigmas: list[float], _) -> np.ndarray:
    """Lu et al. 2022 (arXiv 2211.01095), algorithm 2."""
    before, h_before = None, 0.0
    for sigma, target in zip(sigmas, sigmas[1:], strict=False):
        clean = denoise(x, sigma)
        if target == 0:
            return clean
        h = math.log(sigma / target)
        mixed = clean
        if before is not None:
            r = h_before / h
            mixed = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * before
        x = target / sigma * x - math.expm1(-h) * mixed
        before, h_before = clean, h
    return x


SAMPLERS = {"euler": euler, "euler_a": euler_a, "dpm++2m": dpmpp_2m}


# The two painters


def paint_torch(requests: dict[str, Request]) -> dict[str, dict[str, np.ndarray]]:
    """Per request: ids, sigmas, noise, latent (before / 0.18215) and picture.

    torch is imported here, so that the sd.cpp half also runs without it.
    """
    import reference
    import torch

    text, unet = reference.text_encoder("full"), reference.unet("full")
    drawn = {name: _sample(req, text, unet) for name, req in requests.items()}
    del text, unet
    vae = reference.vae("full")
    for result in drawn.values():
        latent = torch.from_numpy(result["latent"] / np.float32(0.18215))
        image = vae.decode(latent).sample.numpy()[0].transpose(1, 2, 0)
        unit = np.clip((image + 1) / 2, 0, 1)
        result["picture"] = np.floor(255 * unit + 0.5).astype(np.uint8)
    return drawn


def _sample(request: Request, text, unet) -> dict[str, np.ndarray]:
    from make_tokens import vocabulary
    from reference import run_text, run_unet
    from transformers import CLIPTokenizer

    vocab, merges = vocabulary()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges)
    words = [request.prompt, request.negative]
    ids = np.array(tokenizer(words, padding="max_length", max_length=77).input_ids)
    context, _ = run_text(text, ids)
    sigmas = noise_levels(request.schedule, request.steps)
    shape = (1, 4, request.height // 8, request.width // 8)

    def noise(call: int) -> np.ndarray:
        return philox(shape, request.seed, call)

    def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
        scaled = (x / math.sqrt(sigma**2 + 1)).astype(np.float32)
        time = time_of(sigma)
        cond = run_unet(unet, scaled, time, context[:1])
        uncond = run_unet(unet, scaled, time, context[1:])
        return x - sigma * (uncond + request.cfg * (cond - uncond))

    start = noise(0) * sigmas[0]
    latent = SAMPLERS[request.sampler](denoise, start, sigmas, noise)
    return {
        "ids": ids,
        "sigmas": np.array(sigmas),
        "noise": noise(0),
        "latent": latent.astype(np.float32),
    }


class SdCpp:
    """stable-diffusion.cpp with one checkpoint loaded."""

    def __init__(self, checkpoint: Path, threads: int = 2, prediction="default"):
        import stable_diffusion_cpp

        self._model = stable_diffusion_cpp.StableDiffusion(
            model_path=str(checkpoint),
            n_threads=threads,
            rng_type="cuda",
            prediction=prediction,
            verbose=False,
        )

    def paint(self, request: Request, eta: float = 1.0) -> np.ndarray:
        """uint8 (H, W, 3). The program's eta is 1 unless told, the package's 0."""
        images = self._model.generate_image(
            prompt=request.prompt,
            negative_prompt=request.negative,
            width=request.width,
            height=request.height,
            cfg_scale=request.cfg,
            sample_steps=request.steps,
            sample_method=request.sampler,
            scheduler=request.schedule,
            seed=request.seed,
            eta=eta,
        )
        return np.asarray(images[0].convert("RGB"))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Decibels between two uint8 pictures; infinite if equal."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf


def main():
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "sd1.safetensors"
        seeded.save(checkpoint, seeded.sd1_shapes(), "F16", seeded.extra_buffers())
        painter = SdCpp(checkpoint)
        pictures = {name: painter.paint(req) for name, req in REQUESTS.items()}
        del painter
    lines = []
    for name, result in paint_torch(REQUESTS).items():
        other = pictures[name]
        Image.fromarray(other).save(FOLDER / f"sdcpp_{name}.png", optimize=True)
        np.savez_compressed(FOLDER / f"picture_{name}.npz", **result)
        both = f"{psnr(result['picture'], other):.1f} dB between the two"
        size = result["latent"].std()
        lines.append(f"- `{name}`: {both}; final latent deviation {size:.1f}")
        print(lines[-1])
    settings = ", ".join(f"{k} {v!r}" for k, v in asdict(BASE).items())
    notes = (
        "`picture_*.npz` is torch's: `ids` of prompt and negative, `sigmas`, initial\n"
        "`noise`, final `latent` (diffusion scale), `picture` (uint8).\n"
        "`sdcpp_*.png` is stable-diffusion.cpp's, of the same request.\n\n"
        f"Base: {settings}.\n\n"
    )
    record("make_pictures.py", PACKAGES, notes + "\n".join(lines))


if __name__ == "__main__":
    main()
