"""Blocks that the recorded networks share; each does what its layer in nn/ does."""

import math

import mlx.core as mx

from ..nn.embed import EmbeddingMLP
from ..nn.linear import Conv2d
from ..nn.norm import GroupNorm
from ..nn.resblock import ResBlock
from .arrays import Array, View
from .recorder import Recorder


def mlp(r: Recorder, layers: EmbeddingMLP, x: Array) -> Array:
    first, second = layers.layers
    h = r.silu(r.linear(x, first.weight, first.bias))
    return r.linear(h, second.weight, second.bias)


def norm(
    r: Recorder, layer: GroupNorm, x: Array, silu: bool, shift: Array | None = None
) -> Array:
    return r.group_norm(
        x, layer.weight, layer.bias, layer._groups, layer._eps, silu, shift
    )


def res_block(
    r: Recorder,
    block: ResBlock,
    x: Array,
    shift: Array | None,
    skip_bias: mx.array | None,
) -> Array:
    """
    Args:
        shift: what the time embedding and conv1's bias add to the channels.
        skip_bias: the sum of skip's and conv2's, where there is a skip.
    """
    h = r.conv(norm(r, block.norm1, x, silu=True), block.conv1.weight)
    h = r.conv(norm(r, block.norm2, h, silu=True, shift=shift), block.conv2.weight)
    if skip_bias is not None:
        flat = View(x, (math.prod(x.shape[:-1]), x.shape[-1]))
        add = View(h, (flat.shape[0], h.shape[-1]))
        return View(r.linear(flat, block.skip.weight, skip_bias, add=add), h.shape)
    return r.add(h, x, block.conv2.bias)


def conv(r: Recorder, layer: Conv2d, x: Array, out: Array | None = None) -> Array:
    """With its bias."""
    stride, padding = layer._how
    h = r.conv(x, layer.weight, stride, (padding, padding))
    return r.add_channel(h, layer.bias, h if out is None else out)
