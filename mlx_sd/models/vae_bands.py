"""AutoencoderKL a band of rows at a time, with the same values as in one piece.

A convolution is given a band and the rows next to it that it reaches; a norm knows the
statistics of all bands. So nothing is blended and there is no seam. Memory is that of a
block's input and output beside the work on a band; in one piece, what convolutions and
attention work with is several times as much.
"""

import mlx.core as mx

from .. import kernels
from ..kernels.settle import settle
from ..nn.attention import Attention
from ..nn.bands import Bands, Rows, same
from ..nn.resblock import ResBlock
from .vae import AutoencoderKL, MidBlock, Moments, moments

_SCORES = 1 << 24  # of attention, at a time


def decode(vae: AutoencoderKL, z: mx.array, pixels: int) -> mx.array:
    """vae.decode(z), evaluated.

    Args:
        pixels: in a band, at each resolution; memory grows with them.
    """
    decoder = vae.decoder
    x = Bands([vae.post_quant(z) if "post_quant" in vae else z], pixels)
    x = _mid(decoder.mid, x.through(decoder.conv_in))
    finer: Rows | None = None
    for level in reversed(decoder.levels):
        first, *others = level.res
        x = _res_block(first, x, finer)
        for block in others:
            x = _res_block(block, x)
        finer = level.resample if "resample" in level else None
    norm = decoder.norm_out.of_parts(x.parts())
    return x.through(lambda rows: norm(decoder.conv_out, rows)).whole()


def encode(vae: AutoencoderKL, image: mx.array, pixels: int) -> Moments:
    """vae.encode(image), evaluated; `image` is of even height at each resolution."""
    encoder = vae.encoder
    x = Bands([image], pixels).through(encoder.conv_in)
    for level in encoder.levels:
        for block in level.res:
            x = _res_block(block, x)
        if "resample" in level:
            x = x.through(level.resample, reach=2, scale=0.5)
    x = _mid(encoder.mid, x)
    norm = encoder.norm_out.of_parts(x.parts())
    out = x.through(lambda rows: norm(encoder.conv_out, rows)).whole()
    return moments(vae.quant(out) if "quant" in vae else out)


def _res_block(block: ResBlock, x: Bands, finer: Rows | None = None) -> Bands:
    """block(x), or block(finer(x)): the latter is the largest map, and never kept."""
    read, scale = (finer, 2) if finer else (same, 1)
    norm1 = block.norm1.of_parts(x.each(read, scale=2) if finer else x.parts())

    def first(rows: mx.array) -> tuple[mx.array, mx.array]:
        rows = read(rows)
        settle(rows)  # or MLX holds the work of two convolutions at once
        skip = block.skip(rows) if "skip" in block else rows
        return norm1(block.conv1, rows), skip

    both = x.through(first, scale=scale)
    norm2 = block.norm2.of_parts(both.parts())
    return both.through(lambda h, skip: norm2(block.conv2, h) + skip)


def _mid(mid: MidBlock, x: Bands) -> Bands:
    x = _res_block(mid.res[0], x)
    whole = x.whole()
    B, H, W, C = whole.shape
    attended = _attention(mid.attn, mid.norm(whole).reshape(B, H * W, C))
    return _res_block(
        mid.res[1], Bands([whole + attended.reshape(whole.shape)], x.pixels)
    )


def _attention(attn: Attention, x: mx.array) -> mx.array:
    """attn(x) of one head, for some of the queries at a time."""
    L = x.shape[1]
    k, v = attn.k(x), attn.v(x)
    count = max(_SCORES // L, 1)
    out = []
    for start in range(0, L, count):
        q = attn.q(x[:, start : start + count])
        out.append(attn.out(kernels.attention(q, k, v, heads=1)))
        settle(out[-1])
    return mx.concatenate(out, axis=1)
