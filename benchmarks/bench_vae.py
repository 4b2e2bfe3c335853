"""SD 1.5's VAE decoder: latent → picture."""

import mlx.core as mx
from common import VAE, Row, finish_torch, in_dtype, options, report, torch_setup

from mlx_sd import backend
from mlx_sd.models.vae import AutoencoderKL


def ours(side: int):
    model = in_dtype(AutoencoderKL(VAE))
    z = mx.random.normal((1, side, side, 4)).astype(backend.compute_dtype())
    return lambda: mx.eval(model.decode(z))


def theirs(side: int):
    if (setup := torch_setup()) is None:
        return None
    import peer
    import torch

    device, dtype = setup
    model = peer.vae(device, dtype)
    z = torch.randn(1, 4, side, side, device=device, dtype=dtype)
    return lambda: (model.decode(z), finish_torch())


if __name__ == "__main__":
    args = options(__doc__, size=512)
    side = args.size // 8
    name = f"VAE decode, {args.size}x{args.size}"
    report([Row(name, ours(side), theirs(side))], args.runs)
