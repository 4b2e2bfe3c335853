"""diffusers' predictions and noise tables.

Run: python tests/golden/make_prediction.py (torch, diffusers).
"""

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from provenance import FOLDER, record

TIMESTEPS = (1, 250, 999)
SHIFTS = (1.0, 3.0, 5.5)
TABLE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
NOTES = """
`prediction.npz`: what diffusers makes of `x0`, `noise` and a network that puts out
`model`. At the whole timesteps `timesteps`: `<kind>_x` is its noisy latent,
`<kind>_x0` its clean one; `v_out` its velocity. Those of `eps` and `v` are in DDPM's
scale, x/√(sigma² + 1). `flow` is at sigma 0.3. `sigmas`: its table; `zero_snr`: the
alphas_cumprod of its rescaled betas; `flow_sigmas_<shift>`: of SD 3, rising.
"""


def diffusion(x0, noise, model) -> dict[str, np.ndarray]:
    found = {}
    for kind, name in (("eps", "epsilon"), ("v", "v_prediction")):
        ddim = diffusers.DDIMScheduler(
            **TABLE, prediction_type=name, clip_sample=False, set_alpha_to_one=True
        )
        ddim.set_timesteps(1000)
        times = torch.tensor(TIMESTEPS)
        x = [ddim.add_noise(x0, noise, t[None]) for t in times]
        found[f"{kind}_x"] = torch.stack(x)
        found[f"{kind}_x0"] = torch.stack(
            [
                ddim.step(model, int(t), xt).pred_original_sample
                for t, xt in zip(times, x, strict=True)
            ]
        )
        found["v_out"] = torch.stack(
            [ddim.get_velocity(x0, noise, t[None]) for t in times]
        )
    return {name: value.numpy() for name, value in found.items()}


def flow(x0, noise, model) -> dict[str, np.ndarray]:
    euler = diffusers.FlowMatchEulerDiscreteScheduler()
    euler.set_timesteps(sigmas=[0.3])  # one step, to 0
    t = euler.timesteps
    x = euler.scale_noise(x0, t, noise)
    euler.set_begin_index(0)
    found = {"flow_x": x, "flow_x0": euler.step(model, t[0], x).prev_sample}
    for shift in SHIFTS:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        found[f"flow_sigmas_{shift:g}"] = scheduler.sigmas.flip(0)
    return {name: value.numpy() for name, value in found.items()}


def main():
    torch.manual_seed(0)
    x0, noise, model = torch.randn(3, 1, 4, 3, 5)
    euler = diffusers.EulerDiscreteScheduler(**TABLE)
    kept = euler.alphas_cumprod.double()
    np.savez_compressed(
        FOLDER / "prediction.npz",
        x0=x0,
        noise=noise,
        model=model,
        timesteps=np.array(TIMESTEPS),
        sigmas=((1 - kept) / kept).sqrt().numpy(),
        zero_snr=torch.cumprod(1 - rescale_zero_terminal_snr(euler.betas), 0).numpy(),
        **diffusion(x0, noise, model),
        **flow(x0, noise, model),
    )
    record("make_prediction.py", ("torch", "diffusers", "numpy"), NOTES)


if __name__ == "__main__":
    main()
