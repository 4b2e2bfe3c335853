"""Trajectories of k-diffusion's and diffusers' samplers on a small random network.

Needs k-diffusion, with scipy, torchdiffeq and torchsde, and diffusers. Of k-diffusion
only `sampling` is imported: the rest wants packages for training.
"""

import importlib
import sys
import types
from importlib.metadata import distribution

import diffusers
import numpy as np
import torch
from provenance import FOLDER, record
from small_network import COND, SHAPE, noises, start

CALLS = 40  # of noise; no case needs more


def k_diffusion() -> types.ModuleType:
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(distribution("k-diffusion").locate_file("k_diffusion"))]
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, n: x.reshape(x.shape + (1,) * (n - x.ndim))
    package.utils = utils
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": utils})
    return importlib.import_module("k_diffusion.sampling")


def injected():
    """Noise in the order of `noises`, whatever is asked."""
    supply = iter(torch.from_numpy(noises(CALLS)))
    return lambda *args, **kwargs: next(supply)


def of_k_diffusion(sampling, function: str, **options):
    sigmas = sampling.get_sigmas_karras(7, 0.0291675, 14.614641).double()
    seen = []
    if "eta" in options:
        options["noise_sampler"] = injected()
    end = getattr(sampling, function)(
        lambda x, sigma: torch.from_numpy(COND(x.numpy(), float(sigma[0]))),
        torch.from_numpy(start(float(sigmas[0]))),
        sigmas,
        callback=lambda state: seen.append(state["x"]),
        disable=True,
        **options,
    )
    return sigmas.numpy(), torch.stack([*seen[1:], end]).numpy()


BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def of_diffusers(
    scheduler, levels, predict, size=lambda s: 1 / np.sqrt(s**2 + 1), **kw
):
    """The scheduler's walk on size(sigma)·x; `predict` is what its network says."""
    x, levels = start(levels[0], kw.pop("flow", False)), np.asarray(levels, np.float64)
    sample, out = torch.from_numpy(x * size(levels[0])), []
    sys.modules[type(scheduler).__module__].randn_tensor = injected()
    for i, t in enumerate(scheduler.timesteps):
        told = predict(sample.numpy() / size(levels[i]), levels[i])
        sample = scheduler.step(torch.from_numpy(told), t, sample, **kw).prev_sample
        out.append(sample.numpy() / size(levels[i + 1]))
    return levels, np.stack(out)


def eps(x, sigma):
    return (x - COND(x, sigma)) / sigma


def at_timesteps(scheduler) -> np.ndarray:
    """The levels of the scheduler's timesteps, and 0."""
    alphas = scheduler.alphas_cumprod.double().numpy()[scheduler.timesteps.numpy()]
    return np.append(np.sqrt((1 - alphas) / alphas), 0.0)


def ddim():
    s = diffusers.DDIMScheduler(**BETAS, clip_sample=False)
    s.set_timesteps(7)
    return of_diffusers(s, at_timesteps(s), eps, eta=0.5)


def plms():
    s = diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=True)
    s.set_timesteps(7)
    levels = at_timesteps(s)  # t₀ t₁ t₁ t₂ …: the first step asks twice
    doubled, walk = of_diffusers(s, levels, eps)
    return np.delete(doubled, 1), walk[1:]


def lcm():
    s = diffusers.LCMScheduler(**BETAS)
    s.set_timesteps(4)
    return of_diffusers(s, at_timesteps(s), eps)


def tcd(eta: float):
    s = diffusers.TCDScheduler(**BETAS)
    s.set_timesteps(4)
    return of_diffusers(s, at_timesteps(s), eps, eta=eta)


def karras(high: float, low: float, count: int) -> np.ndarray:
    ramp = np.linspace(high ** (1 / 7), low ** (1 / 7), count)
    return np.append(ramp**7, 0.0)


def unipc(count: int):
    s = diffusers.UniPCMultistepScheduler(
        **BETAS, solver_order=3, solver_type="bh1", final_sigmas_type="zero"
    )
    s.set_timesteps(count)
    levels = karras(14.614641, 0.0291675, count)
    levels[-1] = 0.01  # at 0 it computes 0·∞ with this solver type
    s.sigmas = torch.from_numpy(levels)
    return of_diffusers(s, levels, eps)


def ipndm():
    s = diffusers.IPNDMScheduler()
    s.set_timesteps(7)
    levels = karras(14.614641, 0.0291675, 7)
    s.alphas = torch.from_numpy(1 / np.sqrt(levels**2 + 1))
    s.betas = torch.from_numpy(levels / np.sqrt(levels**2 + 1))

    def v(x, sigma):  # α·eps - σ·x0
        return (eps(x, sigma) - sigma * COND(x, sigma)) / np.sqrt(sigma**2 + 1)

    return of_diffusers(s, levels, v)


def flow_sde():
    s = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        lower_order_final=False,
        final_sigmas_type="zero",
    )
    s.set_timesteps(7)
    levels = np.array([0.98, 0.9, 0.75, 0.6, 0.4, 0.2, 0.1, 0.0])
    s.sigmas = torch.from_numpy(levels)
    return of_diffusers(s, levels, eps, size=lambda sigma: 1.0, flow=True)


def cases():
    k = k_diffusion()
    for name, function in {
        "euler": "sample_euler",
        "heun": "sample_heun",
        "dpm2": "sample_dpm_2",
        "lms": "sample_lms",
        "dpm++2m": "sample_dpmpp_2m",
    }.items():
        yield name, of_k_diffusion(k, function)
    for name, function in {
        "euler_a": "sample_euler_ancestral",
        "dpm2_a": "sample_dpm_2_ancestral",
        "dpm++2s_a": "sample_dpmpp_2s_ancestral",
        "dpm++sde": "sample_dpmpp_sde",
        "dpm++2m_sde": "sample_dpmpp_2m_sde",
        "dpm++3m_sde": "sample_dpmpp_3m_sde",
    }.items():
        for eta in (1.0, 0.6):
            yield f"{name} eta={eta}", of_k_diffusion(k, function, eta=eta)
    yield "ddim eta=0.5", ddim()
    yield "plms", plms()
    yield "lcm", lcm()
    for eta in (0.0, 0.3):
        yield f"tcd eta={eta}", tcd(eta)
    yield "unipc", unipc(7)
    yield "unipc steps=3", unipc(3)
    yield "ipndm", ipndm()
    yield "dpm++2m_sde eta=1.0 flow=1", flow_sde()


def main():
    arrays = {}
    for name, (sigmas, walk) in cases():
        assert walk.shape == (len(sigmas) - 1, *SHAPE), name
        assert np.isfinite(walk).all(), name
        arrays |= {f"{name}|sigmas": sigmas, f"{name}|walk": walk}
    np.savez_compressed(FOLDER / "samplers.npz", **arrays)
    record(
        "make_samplers.py",
        ("k-diffusion", "diffusers", "torch", "scipy", "numpy"),
        "`samplers.npz`: for each sampler, with its options, `|sigmas` and `|walk`,\n"
        "the latent after each step, of k-diffusion where it has the sampler and else\n"
        "of diffusers. Network, start and noise: see `tests/small_network.py`;\n"
        "float64, and diffusers' latents divided by √α.",
    )


if __name__ == "__main__":
    main()
