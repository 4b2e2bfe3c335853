"""The UNet of a model at work: its prompts, and the denoisers that call it."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from . import backend
from .caching import Cache
from .convert.type_rules import TypeRules
from .cuda.unet import FastUNet
from .denoiser import Denoiser, Network, Prompts
from .embeddings import Embeddings
from .families import Conditioning, PictureSizes
from .models.clip import ClipText
from .models.unet import UNet
from .nn.embed import guidance_embedding
from .request import Request, Resolved
from .sampling.samplers import SAMPLERS
from .source import Source
from .start import Start, image_scale
from .tokenizers import PromptPlan
from .tokenizers.chunks import CHUNK

log = logging.getLogger(__name__)

_KEPT = 64  # encoded texts, of 0.2 MB or so, for the next request


class Stage:
    """A model's UNet and text encoders, each read when first needed."""

    def __init__(
        self,
        source: Source,
        dtype: mx.Dtype,
        types: TypeRules,
        embeddings: Embeddings | None = None,
        low_memory: bool = False,
    ):
        self.low_memory = low_memory
        self.source = source
        self.dtype = dtype
        self.types = types
        self.family = source.family
        self.embeddings = embeddings
        self._models: dict[str, nn.Module] = {}
        self._unet: FastUNet | None = None
        self._texts: dict[tuple[Any, ...], Conditioning] = {}

    def denoisers(
        self,
        request: Resolved,
        start: Start,
        cache: Callable[[], Cache] | None = None,
    ) -> Callable[[], Denoiser]:
        """What makes a denoiser for each picture of a request.

        Args:
            start, cache: see Denoiser.
        """
        prompts, scale = self.prompts(request), self._scale(request)
        more = image_scale(request, self.source) if self.source.kind.task else 1.0
        prediction = self.source.prediction
        levels = self.source.levels(request.flow_shift)
        network = self._network(request)
        return partial(
            Denoiser,
            network,
            prediction,
            levels,
            prompts,
            scale,
            self.dtype,
            start,
            more,
            cache,
            self.low_memory,
        )

    def decide(self) -> None:
        """Have the UNet tell what it predicts where the files do not."""
        if self.source.undecided and self.family.probe is not None:
            unet = cast(UNet, self._model("unet"))
            self.source.told = self.family.probe(unet, self.dtype)
            log.info("the UNet predicts %s, as it seems", self.source.told)

    def release(self) -> None:
        """Let go of the UNet, which is read again when needed."""
        self._models.pop("unet", None)
        self._unet = None
        backend.trim()

    def prompts(self, request: Resolved) -> Prompts:
        """The prompts of a resolved request at each step, encoded.

        The text encoders are released.
        """
        positive = PromptPlan.positive(request.prompt, request.steps)
        negative = PromptPlan.negative(request.negative_prompt, request.steps)
        needed = Prompts.needs_negative(positive, self._scale(request))
        needed |= image_scale(request, self.source) != 1
        avoided = needed or SAMPLERS[request.sampling_method].uncond
        wanted = self._conditions(positive.texts(), request, negative=False)
        unwanted = self._conditions(
            negative.texts() if avoided else [], request, negative=True
        )
        self._texts = {key: self._texts[key] for key in list(self._texts)[-_KEPT:]}
        used = [part for part in self.family.texts if part in self._models]
        for part in used:
            del self._models[part]
        if used:
            backend.trim()
        return Prompts(positive, negative, wanted, unwanted)

    def _conditions(
        self, texts: list[str], request: Resolved, negative: bool
    ) -> dict[str, Conditioning]:
        size = (request.height, request.width)
        sizes = PictureSizes(
            original=request.original_size or size,
            crop=request.crop or (0, 0),
            target=request.target_size or size,
        )
        return {
            text: self.family.condition(
                text, self.encode(text, request), sizes, negative
            )
            for text in texts
        }

    def encode(self, prompt: str, request: Request) -> Conditioning:
        """The text states of a prompt as it is at a step, computed or remembered.

        Args:
            request: for clip_skip and comma_padding_backtrack.
        """
        key = (prompt, request.clip_skip, request.comma_padding_backtrack)
        if key not in self._texts:
            clips = {part: self._model(part) for part in self.family.texts}
            encoded = self.family.encode(
                cast(dict[str, ClipText], clips),
                self.source.tokenizer,
                prompt,
                clip_skip=request.clip_skip,
                embeddings=self.embeddings,
                comma_padding_backtrack=request.comma_padding_backtrack,
            )
            mx.eval(encoded.context, encoded.pooled)
            if (chunks := encoded.context.shape[1] // CHUNK) > 1:
                log.info(
                    "the prompt has more than 75 tokens and is read in %d chunks",
                    chunks,
                )
            self._texts[key] = encoded
        return self._texts[key]

    def _network(self, request: Resolved) -> Network:
        """The UNet, which is told the guidance if it is LCM's."""
        unet = cast(UNet, self._model("unet"))
        if self._unet is None:
            self._unet = FastUNet(unet)
        if (width := unet.config.guidance_width) is None:
            return self._unet
        if request.negative_prompt:
            log.warning(
                "%s is told its guidance, and takes no negative prompt",
                self.source.name,
            )
        return partial(
            self._unet, guidance=guidance_embedding(request.cfg_scale, width)
        )

    def _scale(self, request: Resolved) -> float:
        """Of guidance by two outputs; 1, none, where the UNet is told instead."""
        told = self.source.config("unet").guidance_width is not None
        return 1.0 if told else request.cfg_scale

    def _model(self, part: str) -> nn.Module:
        if part not in self._models:
            self._models[part] = self.source.build(part, self.dtype, self.types)
            backend.trim()  # after what is needed to quantise
        return self._models[part]
