"""SD 1.5's text encoder: a prompt and a negative prompt of 77 tokens each."""

import mlx.core as mx
from common import CLIP, Row, finish_torch, in_dtype, options, report, torch_setup

from mlx_sd.models.clip import ClipText


def ours():
    model = in_dtype(ClipText(CLIP))
    tokens = mx.random.randint(0, 49406, (2, 77))
    return lambda: mx.eval(model(tokens).hidden)


def theirs():
    if (setup := torch_setup()) is None:
        return None
    import peer
    import torch

    device, dtype = setup
    model = peer.clip(device, dtype)
    tokens = torch.randint(0, 49406, (2, 77), device=device)
    return lambda: (model(tokens), finish_torch())


if __name__ == "__main__":
    args = options(__doc__)
    report([Row("text encoder, 2 x 77 tokens", ours(), theirs())], args.runs)
