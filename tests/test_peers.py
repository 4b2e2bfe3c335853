"""Live comparisons with diffusers and stable-diffusion.cpp, where they are installed.

pip install -e '.[peers]'; pip install stable-diffusion-cpp-python; pytest -m peers
"""

import gc

import make_pictures
import numpy as np
import pytest

import mlx_sd
from mlx_sd.opening import DEMO
from mlx_sd.sampling.noise import Philox

diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.peers,
    # The peers' own warnings are theirs to mend.
    pytest.mark.filterwarnings("ignore"),
]

PROMPT = "a red house and a green tree under a night sky"


def paint(checkpoint, request: make_pictures.Request, rng="cuda") -> np.ndarray:
    """The same request, by us, from any checkpoint."""
    pipeline = mlx_sd.load(checkpoint, dtype="f32")
    (image,) = pipeline(
        mlx_sd.Request(
            prompt=request.prompt,
            negative_prompt=request.negative,
            width=request.width,
            height=request.height,
            steps=request.steps,
            cfg_scale=request.cfg,
            seed=request.seed,
            sampling_method=request.sampler,
            scheduler=request.schedule,
            rng=rng,
        )
    )
    return np.asarray(image)


def start(rng: str) -> dict:
    """The noise of seed 42 for diffusers, which draws that of the CPU itself."""
    if rng == "cpu":
        return {"generator": torch.Generator("cpu").manual_seed(42)}
    noise = Philox(42).normal(4 * 16 * 16).reshape(1, 4, 16, 16)
    return {"latents": torch.from_numpy(noise)}


@pytest.mark.parametrize(
    "sampler, scheduler, rng",
    [
        ("euler", "EulerDiscreteScheduler", "cuda"),
        ("euler", "EulerDiscreteScheduler", "cpu"),
        # Draws noise in its steps too, from the same generator.
        ("euler_a", "EulerAncestralDiscreteScheduler", "cpu"),
    ],
)
def test_diffusers_paints_the_same_from_the_bundled_folder(sampler, scheduler, rng):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        DEMO, safety_checker=None, torch_dtype=torch.float32
    )
    # 10 steps from 999 to 0 are whole timesteps, where all interpolations agree.
    pipe.scheduler = getattr(diffusers, scheduler).from_config(
        pipe.scheduler.config, timestep_spacing="linspace"
    )
    (theirs,) = pipe(
        PROMPT,
        negative_prompt="rain",
        width=128,
        height=128,
        num_inference_steps=10,
        guidance_scale=7.0,
        output_type="np",
        **start(rng),
    ).images
    request = make_pictures.Request(
        PROMPT, "rain", 128, 128, 10, 7.0, 42, sampler, "discrete"
    )
    ours = paint(DEMO, request, rng)
    decibels = make_pictures.psnr(ours, np.floor(theirs * 255 + 0.5))
    assert decibels >= 55


@pytest.mark.full
@pytest.mark.parametrize("name", ["euler", "dpmpp2m_karras"])
def test_full_size_picture_matches_diffusers_and_stable_diffusion_cpp(
    full_checkpoint, name
):
    request = make_pictures.REQUESTS[name]
    ours = paint(full_checkpoint(), request)
    gc.collect()
    theirs = make_pictures.paint_torch({name: request})[name]["picture"]
    assert make_pictures.psnr(ours, theirs) >= 55
    pytest.importorskip("stable_diffusion_cpp", exc_type=ImportError)
    cpp = make_pictures.SdCpp(full_checkpoint()).paint(request)
    assert make_pictures.psnr(ours, cpp) >= 45
