"""Noise levels and timesteps of diffusers, and SciPy's quantiles.

Run: python tests/golden/make_schedules.py (torch, diffusers, scipy).
"""

import json

import diffusers
import numpy as np
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from diffusers.schedulers import AysSchedules
from provenance import FOLDER, record
from scipy import stats

TABLE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
STEPS = (2, 7, 20, 150)
NOTES = """
`schedules.json`, by number of steps: `karras` and `exponential` levels; `lcm`,
`leading` (with an offset of 1) and `trailing` timesteps; `flux` and `flux2` levels by
latent pixels, which stand for their tokens. `ays`: timesteps of SD and SDXL, levels of
SVD. `beta`: scipy.stats.beta.ppf(1 - i/steps) by "alpha beta".
"""


def euler(steps: int, **options):
    scheduler = diffusers.EulerDiscreteScheduler(**TABLE, **options)
    scheduler.set_timesteps(steps)
    return scheduler


def lcm(steps: int) -> list[float]:
    scheduler = diffusers.LCMScheduler(**TABLE)
    scheduler.set_timesteps(steps)
    return scheduler.timesteps.tolist()


def flow(steps: int, mu: float) -> list[float]:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu)
    return scheduler.sigmas.tolist()


def main():
    found = {
        "karras": {n: euler(n, use_karras_sigmas=True).sigmas.tolist() for n in STEPS},
        "exponential": {
            n: euler(n, use_exponential_sigmas=True).sigmas.tolist() for n in STEPS
        },
        "lcm": {n: lcm(n) for n in (1, 2, 4, 7, 8, 20, 50)},
        "leading": {
            n: euler(n, timestep_spacing="leading", steps_offset=1).timesteps.tolist()
            for n in (1, 2, 7, 20, 30)
        },
        "trailing": {
            n: euler(n, timestep_spacing="trailing").timesteps.tolist()
            for n in (1, 2, 4, 20, 50)
        },
        "ays": {
            "sd1": AysSchedules["StableDiffusionTimesteps"],
            "sdxl": AysSchedules["StableDiffusionXLTimesteps"],
            "svd": AysSchedules["StableDiffusionVideoSigmas"],
        },
        "flux": {
            pixels: {n: flow(n, calculate_shift(pixels)) for n in (1, 2, 7, 20)}
            for pixels in (256, 4096, 16384)
        },
        "flux2": {
            pixels: {n: flow(n, compute_empirical_mu(pixels, n)) for n in (1, 2, 7, 20)}
            for pixels in (1024, 4096, 4300, 4301, 16384)
        },
        "beta": {
            f"{a} {b}": {
                n: stats.beta.ppf(1 - np.arange(n) / n, a, b).tolist()
                for n in (1, 2, 7, 20)
            }
            for a, b in ((0.6, 0.6), (0.5, 2.0), (5.0, 1.0), (20.0, 30.0))
        },
    }
    (FOLDER / "schedules.json").write_text(json.dumps(found) + "\n")
    record("make_schedules.py", ("torch", "diffusers", "scipy", "numpy"), NOTES)


if __name__ == "__main__":
    main()
