"""The UNet under guidance: from a latent and its noise level to the clean latent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from .caching import Cache
from .families import Conditioning
from .models.unet import Deep
from .sampling.guidance import cfg, picture_cfg
from .sampling.levels import Levels
from .sampling.prediction import Prediction
from .start import Start
from .tokenizers import PromptPlan

# A UNet, of (x, t, context, vector, deep=…); see UNet.__call__.
Network = Callable[..., mx.array]
# A text, and what the UNet is shown of a picture, for each prediction of a step.
Calls = list[tuple[Conditioning, mx.array | None]]


@dataclass(frozen=True)
class Prompts:
    """What is asked for and what is not, at each step, and the texts' encodings."""

    positive: PromptPlan
    negative: PromptPlan
    wanted: Mapping[str, Conditioning]  # by text of the positive prompt
    unwanted: Mapping[str, Conditioning]  # by text of the negative one

    def conds(self, step: int) -> list[tuple[Conditioning, float]]:
        """The parts that AND divides, with their weights."""
        return [(self.wanted[text], w) for text, w in self.positive.at(step)]

    def uncond(self, step: int) -> Conditioning:
        ((text, _),) = self.negative.at(step)
        return self.unwanted[text]

    @staticmethod
    def needs_negative(positive: PromptPlan, scale: float) -> bool:
        """Whether guidance looks at the negative prompt at all."""
        return scale != 1 or [weight for weight, _ in positive.parts] != [1]


class Denoiser:
    """Calls the UNet for all prompts of a step, in float32 outside the network.

    Set `step`, from 0, before each step of a sampler: prompts may change with it.
    """

    def __init__(
        self,
        unet: Network,
        prediction: type[Prediction],
        levels: Levels,
        prompts: Prompts,
        scale: float,
        dtype: mx.Dtype,
        start: Start,
        image_scale: float = 1.0,
        cache: Callable[[], Cache] | None = None,
        one_by_one: bool = False,
    ):
        """
        Args:
            scale, image_scale: of guidance.cfg and picture_cfg; the latter counts where
                the UNet is shown a picture.
            cache: makes one for each picture; None: every step is computed.
            one_by_one: whether texts never share a batch, which takes less memory.
        """
        self._one_by_one = one_by_one
        self.step = 0
        self._make_cache = cache
        self._cache: Cache | None = None
        self._start, self._image_scale = start, image_scale
        self._unet, self._dtype = unet, dtype
        self._joined: tuple[list[Conditioning], Any] = [], None
        self._prediction, self._levels = prediction, levels
        self._prompts, self._scale = prompts, scale
        self._guided = Prompts.needs_negative(prompts.positive, scale)
        self._guided |= start.concat is not None and image_scale != 1

    def begin(self, step: int = 0) -> None:
        """Before the first step of a picture, or the first that is taken here."""
        self.step = step
        self._cache = self._make_cache() if self._make_cache else None

    def __call__(self, x: mx.array, sigma: float) -> mx.array:
        """(x, sigma) → x0 under guidance, (1, h, w, C) float32."""
        if self._guided:
            return self.guided(x, sigma)[0]
        ((cond, _),) = self._prompts.conds(self.step)
        (out,) = self._cached(x, sigma, [(cond, self._start.concat)])
        return self._x0(out, x, sigma)

    def guided(self, x: mx.array, sigma: float) -> tuple[mx.array, mx.array]:
        """x0 under guidance, and x0 of the negative prompt alone."""
        conds = self._prompts.conds(self.step)
        negative = self._prompts.uncond(self.step)
        seen, blind = self._start.concat, self._start.blind
        calls = [*((cond, seen) for cond, _ in conds), (negative, seen)]
        if seen is not None and self._image_scale != 1:
            calls.append((negative, blind))
        outs = self._cached(x, sigma, calls)
        weighted = [(out, w) for out, (_, w) in zip(outs, conds, strict=False)]
        uncond, *unseen = outs[len(conds) :]
        out = cfg(weighted, uncond, self._scale)
        for blind in unseen:
            out = out + picture_cfg(uncond, blind, self._image_scale)
        return self._x0(out, x, sigma), self._x0(uncond, x, sigma)

    def _x0(self, out: mx.array, x: mx.array, sigma: float) -> mx.array:
        return self._start.blend(self._prediction.x0(out, x, sigma))

    def _cached(self, x: mx.array, sigma: float, calls: Calls) -> list[mx.array]:
        """As `_outputs`, or what the cache has in its place."""
        if self._cache is None:
            return self._outputs(x, sigma, calls)
        return self._cache(self.step, x, sigma, partial(self._outputs, x, sigma, calls))

    def _outputs(
        self, x: mx.array, sigma: float, calls: Calls, deep: Deep | None = None
    ) -> list[mx.array]:
        """What the UNet puts out for each text and what it is shown behind the latent;
        in one batch if the texts are as long."""
        texts = [text for text, _ in calls]
        apart = self._one_by_one and len(calls) > 1
        if apart or len({text.context.shape for text in texts}) > 1:
            parts = deep.divided(len(calls)) if deep else [None] * len(calls)
            return [
                self._outputs(x, sigma, [call], part)[0]
                for call, part in zip(calls, parts, strict=True)
            ]
        shown = self._prediction.scale_input(x, sigma)
        pictures = [picture for _, picture in calls if picture is not None]
        if any(picture is not pictures[0] for picture in pictures):
            shown = mx.repeat(shown, len(texts), axis=0)
            shown = mx.concatenate([shown, mx.concatenate(pictures)], axis=-1)
        elif pictures:
            shown = mx.concatenate([shown, pictures[0]], axis=-1)
        out = self._unet(
            shown.astype(self._dtype),
            mx.full((len(shown),), self._levels.t(sigma)),
            *self._join(texts),
            deep=deep,
        )
        return [part.astype(mx.float32) for part in mx.split(out, len(texts))]

    def _join(self, texts: list[Conditioning]) -> tuple[mx.array, mx.array | None]:
        """Their contexts and their vectors in one batch.

        While the texts stay the same so do the arrays: what a network has made of them
        then serves it again.
        """
        known, joined = self._joined
        if [*map(id, texts)] != [*map(id, known)]:
            vectors = [text.vector for text in texts if text.vector is not None]
            context = mx.concatenate([text.context for text in texts])
            joined = context, mx.concatenate(vectors) if vectors else None
            self._joined = texts, joined
        return joined


class Relay:
    """What a sampler sees: the denoiser whose turn it is.

    A refiner takes over within the sampler's loop, as in A1111, so that noise and what
    a sampler remembers of earlier steps go on.
    """

    turn: Denoiser | None = None

    def __call__(self, x: mx.array, sigma: float) -> mx.array:
        assert self.turn is not None
        return self.turn(x, sigma)

    def guided(self, x: mx.array, sigma: float) -> tuple[mx.array, mx.array]:
        assert self.turn is not None
        return self.turn.guided(x, sigma)
