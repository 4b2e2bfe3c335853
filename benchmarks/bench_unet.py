"""One step of SD 1.5 with guidance: the UNet on a batch of two."""

import mlx.core as mx
from common import UNET, Row, finish_torch, in_dtype, options, report, torch_setup

from mlx_sd import backend
from mlx_sd.models.unet import UNet


def ours(side: int, batch: int):
    model, dtype = in_dtype(UNet(UNET)), backend.compute_dtype()
    x = mx.random.normal((batch, side, side, 4)).astype(dtype)
    context = mx.random.normal((batch, 77, 768)).astype(dtype)
    t = mx.full((batch,), 500.0)
    return lambda: mx.eval(model(x, t, context))


def theirs(side: int, batch: int):
    if (setup := torch_setup()) is None:
        return None
    import peer
    import torch

    device, dtype = setup
    model = peer.unet(device, dtype)
    x = torch.randn(batch, 4, side, side, device=device, dtype=dtype)
    context = torch.randn(batch, 77, 768, device=device, dtype=dtype)
    t = torch.full((batch,), 500.0, device=device)
    return lambda: (model(x, t, context), finish_torch())


if __name__ == "__main__":
    args = options(__doc__, size=512, batch=2)
    side = args.size // 8
    name = f"UNet, batch {args.batch}, {args.size}x{args.size}"
    report([Row(name, ours(side, args.batch), theirs(side, args.batch))], args.runs)
