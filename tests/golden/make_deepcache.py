"""Golden outputs of the small UNet with its deep levels kept, by DeepCache's authors.

Run: pip install --no-deps DeepCache==0.1.1; python tests/golden/make_deepcache.py
"""

from types import SimpleNamespace

import numpy as np
import reference
import torch
from DeepCache import DeepCacheSDHelper
from make_models import normal, write
from provenance import record

PACKAGES = ("torch", "diffusers", "DeepCache", "numpy")
BRANCHES = (0, 1, 3, 4)
TIMES = (901.0, 700.0, 480.0, 260.0)
NOTES = """
`unet_deepcache.npz`: four calls at `times` of the small UNet with `latents` (4, 2, 4,
12, 20) and `context` (2, 77, 128); `branch_<n>` is what it puts out with cache_interval
2 and cache_branch_id n: the second and the fourth call keep the deep levels of the one
before.
"""


def main():
    unet = reference.unet("small")
    rng = np.random.default_rng(5)
    latents = normal(rng, len(TIMES), 2, 4, 12, 20)
    context = normal(rng, 2, 77, reference.UNETS["small"]["cross_attention_dim"])
    times = torch.tensor(TIMES)
    arrays = {}
    for branch in BRANCHES:
        scheduler = SimpleNamespace(timesteps=list(TIMES))
        helper = DeepCacheSDHelper(SimpleNamespace(unet=unet, scheduler=scheduler))
        helper.set_params(cache_interval=2, cache_branch_id=branch)
        helper.enable()
        outs = [
            unet(torch.from_numpy(x), t, torch.from_numpy(context)).sample.numpy()
            for x, t in zip(latents, times, strict=True)
        ]
        helper.disable()
        arrays[f"branch_{branch}"] = np.stack(outs)
    write("unet_deepcache.npz", latents=latents, context=context, times=TIMES, **arrays)
    record("make_deepcache.py", PACKAGES, NOTES)


if __name__ == "__main__":
    main()
