"""A whole SD 1.5 picture: two prompts, guided Euler steps, VAE decode."""

import bench_text
import bench_unet
import bench_vae
from common import Row, options, report


def whole(parts, steps: int):
    """One encoding, `steps` guided UNet calls, one decoding; None without the peer."""
    text, unet, vae = parts
    if unet is None:
        return None

    def run():
        text()
        for _ in range(steps):
            unet()
        vae()

    return run


if __name__ == "__main__":
    args = options(__doc__, size=512, steps=20)
    side = args.size // 8
    ours = bench_text.ours(), bench_unet.ours(side, 2), bench_vae.ours(side)
    theirs = bench_text.theirs(), bench_unet.theirs(side, 2), bench_vae.theirs(side)
    name = f"picture, {args.steps} steps, {args.size}x{args.size}"
    report([Row(name, whole(ours, args.steps), whole(theirs, args.steps))], args.runs)
