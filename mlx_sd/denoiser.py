"""The UNet under guidance: from a latent and its noise level to the clean latent."""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from .families import Conditioning
from .models.unet import UNet
from .sampling.guidance import cfg
from .sampling.levels import Levels
from .sampling.prediction import Prediction
from .tokenizers import PromptPlan


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
        unet: UNet,
        prediction: type[Prediction],
        levels: Levels,
        prompts: Prompts,
        scale: float,
        dtype: mx.Dtype,
    ):
        self.step = 0
        self._unet, self._dtype = unet, dtype
        self._prediction, self._levels = prediction, levels
        self._prompts, self._scale = prompts, scale
        self._guided = Prompts.needs_negative(prompts.positive, scale)

    def __call__(self, x: mx.array, sigma: float) -> mx.array:
        """(x, sigma) → x0 under guidance, (1, h, w, C) float32."""
        conds = self._prompts.conds(self.step)
        if self._guided:
            return self._both(x, sigma)[0]
        (out,) = self._outputs(x, sigma, [conds[0][0]])
        return self._prediction.x0(out, x, sigma)

    def guided(self, x: mx.array, sigma: float) -> tuple[mx.array, mx.array]:
        """x0 under guidance, and x0 of the negative prompt alone."""
        return self._both(x, sigma)

    def _both(self, x: mx.array, sigma: float) -> tuple[mx.array, mx.array]:
        conds = self._prompts.conds(self.step)
        texts = [*(cond for cond, _ in conds), self._prompts.uncond(self.step)]
        *outs, uncond = self._outputs(x, sigma, texts)
        weighted = [(out, w) for out, (_, w) in zip(outs, conds, strict=True)]
        out = cfg(weighted, uncond, self._scale)
        return self._prediction.x0(out, x, sigma), self._prediction.x0(uncond, x, sigma)

    def _outputs(
        self, x: mx.array, sigma: float, texts: list[Conditioning]
    ) -> list[mx.array]:
        """What the UNet puts out for each text; in one batch if they are as long."""
        if len({text.context.shape for text in texts}) > 1:
            return [self._outputs(x, sigma, [text])[0] for text in texts]
        count, t = len(texts), self._levels.t(sigma)
        shown = self._prediction.scale_input(x, sigma).astype(self._dtype)
        vectors = [text.vector for text in texts if text.vector is not None]
        out = self._unet(
            mx.repeat(shown, count, axis=0),
            mx.full((count,), t),
            mx.concatenate([text.context for text in texts]),
            mx.concatenate(vectors) if vectors else None,
        )
        return [out[i : i + 1].astype(mx.float32) for i in range(count)]
