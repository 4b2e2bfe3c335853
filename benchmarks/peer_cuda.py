"""diffusers on an NVIDIA GPU in float16: eager, as a CUDA graph, compiled as one.

    python peer_cuda.py MODES unet sd1|sdxl BATCH SIDE
    python peer_cuda.py MODES vae SIDE

Prints milliseconds by mode as JSON. Weights are random.
"""

import json
import statistics
import sys
import time

import peer
import torch
from diffusers import UNet2DConditionModel

SDXL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
    "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def median(run, ahead: int, runs: int = 10) -> float:
    """Of runs of which `ahead` follow one another before they are waited for."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(ahead):
            run()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken) / ahead


def graphed(run):
    """The same work from a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def unet(kind: str, batch: int, side: int):
    if kind == "sd1":
        model, width = peer.unet("cuda", torch.float16), 768
    else:
        model = UNet2DConditionModel(**SDXL).to("cuda", torch.float16).eval()
        width = 2048
    model = model.to(memory_format=torch.channels_last)
    model.fuse_qkv_projections()
    options = {"device": "cuda", "dtype": torch.float16}
    x = torch.randn(batch, 4, side, side, **options)
    x = x.to(memory_format=torch.channels_last)
    context = torch.randn(batch, 77, width, **options)
    t = torch.full((batch,), 500.0, device="cuda")
    more = {}
    if kind == "sdxl":
        text = torch.randn(batch, 1280, **options)
        more["added_cond_kwargs"] = {
            "text_embeds": text,
            "time_ids": torch.full((batch, 6), 1024.0, **options),
        }
    return model, lambda net: lambda: net(x, t, context, return_dict=False, **more)


def vae(side: int):
    model = peer.vae("cuda", torch.float16).to(memory_format=torch.channels_last)
    z = torch.randn(1, 4, side, side, device="cuda", dtype=torch.float16)
    return model.decode, lambda decode: lambda: decode(z, return_dict=False)


def main() -> None:
    modes, part, *arguments = sys.argv[1:]
    torch.set_grad_enabled(False)
    torch.backends.cudnn.benchmark = True
    if part == "unet":
        network, bind = unet(arguments[0], *map(int, arguments[1:]))
        ahead = 10
    else:
        network, bind = vae(int(arguments[0]))
        ahead = 1
    found = {}
    if "eager" in modes:
        found["eager"] = median(bind(network), ahead)
    if "graph" in modes:
        found["graph"] = median(graphed(bind(network)), ahead)
    if "compiled" in modes:
        run = bind(torch.compile(network, dynamic=False))
        run()
        found["compiled"] = median(graphed(run), ahead)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
