"""The UNet of latent diffusion: SD 1.x, 2.x, SDXL and what derives from them.

Sources: Rombach et al. 2022 (arXiv 2112.10752); Podell et al. 2023 (arXiv 2307.01952)
for the vector conditioning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..errors import ConfigError
from ..nn.attention import Attention
from ..nn.embed import EmbeddingMLP, timestep_embedding
from ..nn.linear import Conv2d, Linear
from ..nn.norm import GroupNorm, LayerNorm
from ..nn.resample import Downsample, Upsample
from ..nn.resblock import ResBlock, tiled


@dataclass(frozen=True)
class UNetConfig:
    """A depth counts the transformer layers behind one residual block; 0: none.

    Levels go from fine to coarse in `widths`, `heads` and `down`, and in running
    order, from coarse to fine, in `up`.
    """

    in_channels: int  # 4; 9 for inpainting, 8 for editing models
    out_channels: int
    widths: tuple[int, ...]  # channels per level: 320 × (1, 2, 4, 4) in SD 1.x
    heads: tuple[int, ...]  # attention heads per level
    context_width: int  # D of the text states: 768 CLIP-L, 1024 OpenCLIP-H, 2048 both
    time_width: int  # 4 × widths[0]
    down: tuple[tuple[int, ...], ...]  # depths per level and residual block
    mid: tuple[int, ...]  # (d, 0), or (0,) in SSD-1B and Vega, or () in tiny-sd
    up: tuple[tuple[int, ...], ...]
    vector_width: int | None  # pooled text and picture sizes: 2816 SDXL; None: none
    linear_projections: bool  # the file keeps proj_in/out as linear, not as 1x1 conv
    only_cross: tuple[bool, ...]  # levels that attend to the text twice: SDXS-0.9's 1st
    guidance_width: int | None  # embedding of the guidance: 256 LCM; None: none

    def __post_init__(self) -> None:
        levels = len(self.widths)
        if {len(self.heads), len(self.down), len(self.up)} != {levels}:
            raise ConfigError(
                f"UNet of {levels} widths, {len(self.down)} levels down and "
                f"{len(self.up)} up; they must be as many"
            )
        down, up = (sum(map(len, side)) for side in (self.down, self.up))
        if not all((*self.down, *self.up)) or up != down + levels:
            raise ConfigError(
                f"UNet of {levels} levels with {down} blocks down and {up} up; there "
                "must be a block on each, and one more per level up than down"
            )
        if self.guidance_width is not None and (
            self.guidance_width < 4 or self.guidance_width % 2
        ):
            raise ConfigError(
                f"UNet with a guidance embedding {self.guidance_width} wide; it must "
                "be even and at least 4"
            )
        for width, heads in zip(self.widths, self.heads, strict=True):
            if heads < 1 or width % heads:
                raise ConfigError(f"UNet level of width {width} with {heads} heads")


class FeedForward(nn.Module):
    """GEGLU: the first half is the value, the second the gate (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.proj_in = Linear(width, 2 * hidden)
        self.proj_out = Linear(hidden, width)

    def __call__(self, x: mx.array, add: mx.array) -> mx.array:
        return self.proj_out(kernels.geglu(self.proj_in(x)), add)


class TransformerLayer(nn.Module):
    """Attention among positions, attention to the text, feed-forward.

    With `only_cross` the first of these attends to the text as well.
    """

    def __init__(self, width: int, heads: int, context_width: int, only_cross: bool):
        super().__init__()
        self._only_cross = only_cross
        source_width = context_width if only_cross else width
        self.norm1 = LayerNorm(width)
        self.self_attn = Attention(width, source_width, heads, bias=False)
        self.norm2 = LayerNorm(width)
        self.cross_attn = Attention(width, context_width, heads, bias=False)
        self.norm3 = LayerNorm(width)
        self.ff = FeedForward(width, 4 * width)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        """(B, L, D), (n·B, M, E) → (n·B, L, D)"""
        if self._only_cross:
            x = tiled(x, context)
        first = context if self._only_cross else None
        x = tiled(self.self_attn(self.norm1(x), first, add=x), context)
        x = self.cross_attn(self.norm2(x), context, add=x)
        return self.ff(self.norm3(x), x)


class SpatialTransformer(nn.Module):
    """Transformer layers over the positions of a feature map, residual."""

    def __init__(self, level: int, depth: int, config: UNetConfig):
        super().__init__()
        width, heads = config.widths[level], config.heads[level]
        only_cross = config.only_cross[level]
        self.norm = GroupNorm(width, eps=1e-6)
        self.proj_in = Linear(width, width)
        self.layers = [
            TransformerLayer(width, heads, config.context_width, only_cross)
            for _ in range(depth)
        ]
        self.proj_out = Linear(width, width)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        B, H, W, C = x.shape
        h = self.proj_in(self.norm(x).reshape(B, H * W, C))
        for layer in self.layers:
            h = layer(h, context)
        flat = tiled(x, h).reshape(-1, H * W, C)
        return self.proj_out(h, flat).reshape(-1, H, W, C)


class Block(nn.Module):
    """A residual block and, where the depth is not 0, a transformer."""

    def __init__(
        self, channels_in: int, level: int, depth: int, config: UNetConfig
    ) -> None:
        super().__init__()
        width = config.widths[level]
        self.res = ResBlock(channels_in, width, 1e-5, config.time_width)
        if depth:
            self.attn = SpatialTransformer(level, depth, config)

    def __call__(self, x: mx.array, emb: mx.array, context: mx.array) -> mx.array:
        x = self.res(x, emb)
        return self.attn(x, context) if "attn" in self else x


class Level(nn.Module):
    """The blocks of one resolution; `downsample` or `upsample` leads to the next."""

    def __init__(
        self,
        channels_in: Sequence[int],
        level: int,
        depths: tuple[int, ...],
        config: UNetConfig,
    ):
        super().__init__()
        self.blocks = [
            Block(channels, level, depth, config)
            for channels, depth in zip(channels_in, depths, strict=True)
        ]


@dataclass
class Deep:
    """What the deep levels of a UNet put out, kept from one call to the next.

    With `reuse` the blocks of the first `branch` skip connections behind conv_in alone
    are computed, and those that take them and conv_in's up; see caching.DeepCache.
    """

    branch: int
    reuse: bool = False
    features: mx.array | None = None  # (B, h, w, C), set by each call without `reuse`
    parts: "list[Deep]" = field(default_factory=list)

    def divided(self, count: int) -> "list[Deep]":
        """One for each latent of a batch that is computed one by one."""
        if len(self.parts) != count:
            self.parts = [Deep(self.branch) for _ in range(count)]
        for part in self.parts:
            part.reuse = self.reuse
        return self.parts

    def kept(self, batch: int) -> mx.array | None:
        """The features, if they are to be used and are of as many latents."""
        fits = self.features is not None and self.features.shape[0] == batch
        return self.features if self.reuse and fits else None


class UNet(nn.Module):
    """Noisy latent, timestep and text states → predicted noise (or velocity)."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time = EmbeddingMLP(widths[0], config.time_width)
        if config.guidance_width is not None:
            self.guidance = Linear(config.guidance_width, widths[0], bias=False)
        if config.vector_width is not None:
            self.vector = EmbeddingMLP(config.vector_width, config.time_width)

        channels, skips = widths[0], [widths[0]]  # what each skip connection carries
        self.down = []
        for i, depths in enumerate(config.down):
            inputs = [channels] + [widths[i]] * (len(depths) - 1)
            level = Level(inputs, i, depths, config)
            channels = widths[i]
            skips += [channels] * len(depths)
            if i < last:
                level.downsample = Downsample(channels, one_sided=False)
                skips.append(channels)
            self.down.append(level)

        self.mid = [Block(channels, last, depth, config) for depth in config.mid]

        self.up = []
        for i, depths in zip(range(last, -1, -1), config.up, strict=True):
            inputs = [channels] + [widths[i]] * (len(depths) - 1)
            level = Level([c + skips.pop() for c in inputs], i, depths, config)
            channels = widths[i]
            if i > 0:
                level.upsample = Upsample(channels)
            self.up.append(level)

        self.norm_out = GroupNorm(widths[0], eps=1e-5)
        self.conv_out = Conv2d(widths[0], config.out_channels, 3, padding=1)
        self._skips = 1 + len(self._downward())

    def _downward(self) -> list[nn.Module]:
        """The layers whose outputs are skip connections, in running order."""
        layers: list[nn.Module] = []
        for level in self.down:
            layers += level.blocks
            if "downsample" in level:
                layers.append(level.downsample)
        return layers

    def __call__(
        self,
        x: mx.array,
        t: mx.array,
        context: mx.array,
        vector: mx.array | None = None,
        residuals: Sequence[mx.array] = (),
        deep: Deep | None = None,
        guidance: mx.array | None = None,
    ) -> mx.array:
        """Predict for a batch, of n texts for each latent.

        What no text has a part in yet is computed once for a latent.

        Args:
            x: (B, h, w, in_channels) latent, scaled to unit size; h and w are free.
            t: (B,) timesteps in [0, 1000), fractional ones allowed.
            context: (n·B, L, context_width) text states: a text for each latent, then
                the next one for each.
            vector: (n·B, vector_width), for models that take one.
            residuals: a ControlNet's additions, one for each skip connection in
                running order and a last one for the middle; or none.
            deep: keeps what the deep levels put out, or stands in for them.
            guidance: (B or 1, guidance_width) see nn.embed.guidance_embedding, for
                models that take one.

        Returns: (n·B, h, w, out_channels) in x's dtype.
        """
        if vector is not None:
            x, t = tiled(x, context), tiled(t, context)
        waves = timestep_embedding(t, self.config.widths[0]).astype(x.dtype)
        if guidance is not None:
            waves = waves + self.guidance(guidance.astype(x.dtype))
        emb = self.time(waves)
        if vector is not None:
            emb = emb + self.vector(vector)

        h = self.conv_in(x)
        skips, left = [h], self._skips
        kept = deep.kept(len(context)) if deep else None
        wanted = deep.branch + 1 if deep and kept is not None else left
        for layer in self._downward()[: wanted - 1]:
            h = layer(h) if isinstance(layer, Downsample) else layer(h, emb, context)
            skips.append(h)

        for block in self.mid if kept is None else ():
            h = block(h, emb, context)

        if residuals:
            *to_skips, to_mid = residuals
            h = h + to_mid
            pairs = zip(skips, to_skips, strict=kept is None)
            skips = [tiled(s, r) + r for s, r in pairs]

        for level in self.up:
            for block in level.blocks:
                if deep and left == deep.branch + 1:
                    h = deep.features = h if kept is None else kept
                if left <= wanted:
                    skip = tiled(skips.pop(), h)
                    h = block(mx.concatenate([h, skip], axis=-1), emb, context)
                left -= 1
            if "upsample" in level and left < wanted:
                # A size that no power of two divides was rounded up on the way down.
                h = level.upsample(h, size=skips[-1].shape[1:3])

        return self.norm_out.into(self.conv_out, h)
