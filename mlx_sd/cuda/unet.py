"""The UNet as a recording: models/unet.py's forward, in this folder's operations."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..models.unet import Block, SpatialTransformer, TransformerLayer, UNet
from ..nn.attention import Attention
from ..nn.compact import Compact
from ..nn.resblock import tiled
from .arrays import Array, Snapshot, View, gather, together
from .blocks import conv, mlp, norm, res_block
from .driver import CudaError, Stream, available, patience
from .recorder import TYPES, Recorder
from .recording import Recording

log = logging.getLogger(__name__)

Shapes = tuple[tuple[int, ...], tuple[int, ...]]  # of the latent and the text
_KEPT = 2  # recordings


class FastUNet:
    """A UNet that is called as usual, and recorded where a recording serves.

    To record takes seconds, more when a machine does it for the first time, and saves
    8 ms a step: some calls of one size are made as usual first. Recordings hold memory,
    so two are kept, as prompts of unlike length take turns; and the network's own way
    serves what a recording does not have.
    """

    def __init__(self, unet: UNet, wait: int | None = None):
        """
        Args:
            wait: how many calls; None: 50, unless the environment says never.
        """
        self._unet = unet
        self._wait = patience(50) if wait is None else wait
        self._called = Counter[Shapes]()
        self._weights: Weights | None = None
        self._recorded: dict[Shapes, RecordedUNet] = {}  # the last one made is the last

    def __call__(
        self,
        x: mx.array,
        t: mx.array,
        context: mx.array,
        vector: mx.array | None = None,
        **others: Any,
    ) -> mx.array:
        if any(not _absent(other) for other in others.values()):
            return self._unet(x, t, context, vector, **others)
        if vector is not None:
            x, t = tiled(x, context), tiled(t, context)
        shapes = x.shape, context.shape
        recorded = self._recorded.get(shapes)
        if recorded is not None and not recorded.serves(x, context):
            recorded = None
            del self._recorded[shapes]
        if recorded is None:
            self._called[shapes] += 1
            if self._called[shapes] > self._wait and fits(self._unet, x):
                recorded = self._record(x, context)
        if recorded is None:
            return self._unet(x, t, context, vector, **others)
        return recorded(x, t, context, vector)

    @property
    def recorded(self) -> bool:
        return bool(self._recorded)

    def _record(self, x: mx.array, context: mx.array) -> "RecordedUNet | None":
        shapes = x.shape, context.shape
        while len(self._recorded) >= _KEPT:  # their memory is free for the next
            del self._recorded[next(iter(self._recorded))]
        try:
            if self._weights is None or not self._weights.unchanged():
                self._recorded.clear()  # which hold the old ones
                self._weights = None
                self._weights = Weights(self._unet)
            self._recorded[shapes] = RecordedUNet(self._weights, x, context)
        except (CudaError, RuntimeError) as error:  # the latter: out of memory
            log.warning("the UNet runs as MLX's operations: %s", error)
            self._called[shapes] = -(1 << 60)
        return self._recorded.get(shapes)


def _absent(value: Any) -> bool:
    return value is None or isinstance(value, Sequence) and not value


def fits(unet: UNet, x: mx.array) -> bool:
    """Whether the network can be recorded: of one float type, with whole eights."""
    if x.dtype not in TYPES or not available():
        return False
    config = unet.config
    heads = zip(config.widths, config.heads, strict=True)
    return (
        all(width // n % 8 == 0 and width // n <= 160 for width, n in heads)
        and config.guidance_width is None
        and not any(isinstance(m, Compact) for m in unet.modules())
        and {a.dtype for a in arrays(unet)} == {x.dtype}
    )


def arrays(module: nn.Module) -> list[mx.array]:
    return list(dict(tree_flatten(module.parameters())).values())


def _fuse(layers: Sequence[nn.Module]) -> mx.array:
    """The rows of their weights in one array, of which the layers then hold parts."""
    rows = together([(layer, "weight") for layer in layers])
    fused = rows.reshape(-1, layers[0].weight.shape[-1])
    mx.eval(fused)
    return fused


class Weights:
    """Weights side by side, where the network's layers hold parts of a larger array."""

    def __init__(self, unet: UNet):
        self.unet = unet
        self.blocks = [
            block for level in (*unet.down, *unet.up) for block in level.blocks
        ] + list(unet.mid)
        self.fused: dict[int, mx.array] = {}  # by id of an Attention
        self.layers = [
            layer
            for block in self.blocks
            if "attn" in block
            for layer in block.attn.layers
        ]
        fused: list[nn.Module] = []
        for layer in self.layers:
            attn, cross = layer.self_attn, layer.cross_attn
            parts = [attn.k, attn.v] if layer._only_cross else [attn.q, attn.k, attn.v]
            self.fused[id(attn)] = _fuse(parts)
            self.fused[id(cross)] = _fuse([cross.k, cross.v])
            fused += [*parts, cross.k, cross.v]
        # The convolution's bias is added with the shift, by the norm that follows it.
        embs = [block.res.emb for block in self.blocks]
        self.emb = _fuse(embs)
        self.emb_bias = mx.concatenate(
            [block.res.emb.bias + block.res.conv1.bias for block in self.blocks]
        )
        self.skip_bias = {
            id(block.res): block.res.skip.bias + block.res.conv2.bias
            for block in self.blocks
            if "skip" in block.res
        }
        mx.eval(self.emb_bias, *self.skip_bias.values())
        own = [self.emb, *self.fused.values()]
        self.memory = [*own, self.emb_bias, *self.skip_bias.values()]
        self.memory += gather(unet, stay=[part.weight for part in (*fused, *embs)])
        self._seen = Snapshot(unet)

    def unchanged(self) -> bool:
        """Whether the network's arrays are still those that were recorded."""
        return self._seen.unchanged()


class RecordedUNet:
    """A UNet for one size, batch and length of text, called like the network itself."""

    def __init__(self, weights: "Weights", x: mx.array, context: mx.array):
        self._unet, self._weights, self._dtype = weights.unet, weights, x.dtype
        self._shapes = x.shape, context.shape
        self._context: mx.array | None = None
        memory = weights.memory
        parameters = [*arrays(weights.unet), *memory]
        stream = Stream()
        where = stream, memory
        self._text = Recording(x.dtype, parameters, self._record_text, *where)
        self._step = Recording(x.dtype, parameters, self._record_step, *where)

    def serves(self, x: mx.array, context: mx.array) -> bool:
        """Whether it was made for such arrays, and the weights are where they were."""
        return (
            (x.dtype, (x.shape, context.shape)) == (self._dtype, self._shapes)
            and (context is self._context or self._weights.unchanged())
            and (context is self._context or not self._step.stale())
        )

    def __call__(
        self, x: mx.array, t: mx.array, context: mx.array, vector: mx.array | None
    ) -> mx.array:
        if context is not self._context:
            self._set_text(context, vector)
        self._step.run(x=x, t=t.astype(mx.float32))
        return self._step.out()

    def _set_text(self, context: mx.array, vector: mx.array | None) -> None:
        values = {"context": context.astype(self._dtype)}
        if vector is not None:
            values["vector"] = vector.astype(self._dtype)
        self._text.run(**values)
        self._context = context

    def _record_text(self, r: Recorder) -> dict[str, Array]:
        """What depends on the text alone: keys and values, and the vector's share."""
        B, L, E = self._shapes[1]
        config = self._unet.config
        arrays: dict[str, Array] = {"context": r.array(B, L, E)}
        if config.vector_width is not None:
            arrays["vector"] = r.array(B, config.vector_width)
            arrays["emb"] = mlp(r, self._unet.vector, arrays["vector"])
        for i, layer in enumerate(self._weights.layers):
            for name in ("self_attn", "cross_attn"):
                if name == "cross_attn" or layer._only_cross:
                    fused = self._weights.fused[id(layer[name])]
                    arrays[f"{i}.{name}"] = r.linear(arrays["context"], fused)
        return arrays

    def _record_step(self, r: Recorder) -> dict[str, Array]:
        x = r.array(*self._shapes[0])
        t = r.array(x.shape[0], bytes=4)
        texts, channels = self._shapes[1][0], self._unet.config.out_channels
        out = r.array(texts, *x.shape[1:-1], channels)
        self._forward(r, x, t, out)
        return {"x": x, "t": t, "out": out}

    def _forward(self, r: Recorder, x: Array, t: Array, out: Array) -> None:
        net, w = self._unet, self._weights
        emb = mlp(r, net.time, r.timesteps(t, net.config.widths[0]))
        if net.config.vector_width is not None:
            emb = r.add(emb, self._text.arrays["emb"])
        shifts = self._tiled(r, r.linear(r.silu(emb), w.emb, w.emb_bias))

        def run(block: Block, h: Array) -> Array:
            at = 0
            for other in w.blocks:
                if other is block:
                    break
                at += other.res.conv1.weight.shape[0]
            width = block.res.conv1.weight.shape[0]
            shift = View(shifts, (h.shape[0], width), at, shifts.pitch)
            h = res_block(r, block.res, h, shift, w.skip_bias.get(id(block.res)))
            return self._transformer(r, block.attn, h) if "attn" in block else h

        h = conv(r, net.conv_in, x)
        skips = [h]
        for level in net.down:
            for block in level.blocks:
                h = run(block, h)
                skips.append(h)
            if "downsample" in level:
                h = conv(r, level.downsample.conv, h)
                skips.append(h)
        for block in net.mid:
            h = run(block, h)
        for level in net.up:
            for block in level.blocks:
                h = run(block, r.concat(h, self._tiled(r, skips.pop())))
            if "upsample" in level:
                _, H, W, _ = skips[-1].shape
                h = conv(r, level.upsample.conv, r.nearest(h, H, W))
        h = norm(r, net.norm_out, h, silu=True)
        conv(r, net.conv_out, h, out)

    def _transformer(self, r: Recorder, block: SpatialTransformer, x: Array) -> Array:
        B, H, W, C = x.shape
        h: Array = View(norm(r, block.norm, x, silu=False), (B, H * W, C))
        h = r.linear(h, block.proj_in.weight, block.proj_in.bias)
        for layer in block.layers:
            h = self._layer(r, layer, h)
        x = self._tiled(r, x)
        flat = View(x, (x.shape[0], H * W, C))
        h = r.linear(h, block.proj_out.weight, block.proj_out.bias, add=flat)
        return View(h, x.shape)

    def _tiled(self, r: Recorder, x: Array) -> Array:
        """(B, …) → (n·B, …), one for each text; as it is if it is so."""
        return r.repeat(x, self._shapes[1][0] // x.shape[0])

    def _layer(self, r: Recorder, layer: TransformerLayer, h: Array) -> Array:
        index = next(i for i, o in enumerate(self._weights.layers) if o is layer)
        for name, before in (("self_attn", layer.norm1), ("cross_attn", layer.norm2)):
            attention: Attention = layer[name]
            if f"{index}.{name}" in self._text.arrays:
                h = self._tiled(r, h)
            B, L, D = h.shape
            n = r.layer_norm(h, before.weight, before.bias, before._eps)
            if f"{index}.{name}" in self._text.arrays:
                q: Array = r.linear(n, attention.q.weight)
                kv = self._text.arrays[f"{index}.{name}"]
                M = kv.shape[1]
                k, v = (View(kv, (B, M, D), i * D, 2 * D) for i in range(2))
            else:
                qkv = r.linear(n, self._weights.fused[id(attention)])
                q, k, v = (View(qkv, (B, L, D), i * D, 3 * D) for i in range(3))
            a = r.attention(q, k, v, attention._heads)
            h = r.linear(a, attention.out.weight, attention.out.bias, add=h)
        n = r.layer_norm(h, layer.norm3.weight, layer.norm3.bias, layer.norm3._eps)
        ff = layer.ff
        gated = r.gated(n, ff.proj_in.weight, ff.proj_in.bias)
        return r.linear(gated, ff.proj_out.weight, ff.proj_out.bias, add=h)
