"""From a request to pictures, step by step."""

import logging
import random
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from PIL import Image

from . import backend
from ._version import __version__
from .canvas import size_of
from .codec import Codec
from .convert.type_rules import TypeRules
from .defaults import defaults
from .denoiser import Denoiser, Network, Prompts
from .embeddings import Embeddings
from .errors import ConfigError, SDError, unknown
from .families import Conditioning, PictureSizes
from .image import save, to_pil
from .load import DEMO, open_model
from .metadata import model_hash_later, parameters
from .models.clip import ClipText
from .models.unet import UNet
from .nn.embed import guidance_embedding
from .quantize import parse_rules
from .request import SIZES, Request, Resolved
from .sampling.samplers import SAMPLERS
from .source import Source
from .start import check_pictures, image_scale, starting
from .tokenizers import PromptPlan
from .tokenizers.chunks import CHUNK
from .walk import Walk

log = logging.getLogger(__name__)

DTYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_KEPT = 64  # encoded texts, of 0.2 MB or so, for the next request


@dataclass(frozen=True)
class Progress:
    """One denoising step is done."""

    image: int  # from 0 to batch_count - 1
    step: int  # from 1 to steps
    steps: int
    sigma: float  # the noise level that was denoised from
    denoised: mx.array  # (1, h, w, C) the clean latent as predicted now
    latent: mx.array  # (1, h, w, C) with the noise that is still in it
    target: float  # the noise level of `latent`


@dataclass(frozen=True)
class Picture:
    image: Image.Image
    request: Request  # with the seed, width, height and schedule that were used
    pipeline: "Pipeline"

    @property
    def parameters(self) -> str:
        """A1111's text."""
        return self.pipeline.parameters(self.request)

    def save(self, path: str | Path, metadata: bool = True) -> None:
        """Write a PNG, JPEG or WebP file; see image.save.

        Args:
            metadata: whether to write the parameters into it.
        """
        save(self.image, Path(path), self.parameters if metadata else None)


class Pipeline:
    """A model that is ready to paint. Parts are read when first needed.

    The text encoder is released once a prompt is encoded, and its result kept; the UNet
    and the VAE stay for the next request.
    """

    def __init__(
        self,
        source: Source,
        dtype: mx.Dtype,
        types: TypeRules,
        *,
        embeddings: Embeddings | None = None,
        loading: Mapping[str, Any] | None = None,
    ):
        """
        Args:
            loading: what of load()'s arguments decides over pixels, for metadata.
        """
        self.source = source
        self.dtype = dtype
        self.types = types
        self.family = source.family
        self.embeddings = embeddings
        self.loading = dict(loading or {})
        self.codec = Codec(source, dtype, types)
        self._models: dict[str, nn.Module] = {}
        self._texts: dict[tuple[Any, ...], Conditioning] = {}

    def __call__(
        self,
        request: Request,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> list[Image.Image]:
        """All pictures of a request; `on_progress` is called after each step."""
        images = []
        for event in self.stream(request):
            if isinstance(event, Picture):
                images.append(event.image)
            elif on_progress is not None:
                on_progress(event)
        return images

    def stream(self, request: Request) -> Iterator[Progress | Picture]:
        """Denoise each picture, yielding every step, then decode and yield them all.

        Stop iterating to cancel: no further step is computed.

        Raises: ConfigError for settings that do not fit together or the model; SDError
            if a latent or a pixel is not a finite number.
        """
        request = self.resolve(request)
        walk = Walk(self.source, request)
        backend.prepare_for(self.source.parameters("unet"))
        prompts = self.prompts(request)
        start = starting(request, self.source, self.codec, walk.draw(request.seed))

        denoiser = Denoiser(
            self._network(request),
            walk.prediction,
            walk.levels,
            prompts,
            self._scale(request),
            self.dtype,
            start,
            image_scale(request, self.source),
            walk.cache,
        )
        requests = [
            replace(request, seed=request.seed + i, batch_count=1)
            for i in range(request.batch_count)
        ]
        latents = []
        for i, single in enumerate(requests):
            sampling = self._sample(i, single, walk, denoiser, start.latent)
            latents.append((yield from sampling))

        for single, latent in zip(requests, latents, strict=True):
            yield Picture(self.decode(latent), single, self)

    def resolve(self, request: Request) -> Resolved:
        """The request with what it left open: a seed, and what the model has usually.

        Raises: ConfigError for settings that do not fit together or the model.
        """
        if self.source.undecided and self.family.probe is not None:
            unet = cast(UNet, self._model("unet"))
            self.source.told = self.family.probe(unet, self.dtype)
            log.info("the UNet predicts %s, as it seems", self.source.told)
        usual = defaults(self.source)
        own = usual.size, usual.size
        width, height = size_of(request, self.family.latent.reduction) or own
        last = (1 << 32) - request.batch_count
        seed = random.randrange(last) if request.seed < 0 else request.seed
        sampler = request.sampling_method or usual.sampling_method
        scheduler = request.scheduler
        if scheduler is None and request.sigmas is None:
            scheduler = SAMPLERS[sampler].scheduler or usual.scheduler
        scale = request.cfg_scale
        settled = {
            "seed": seed,
            "width": request.width or width,
            "height": request.height or height,
            "steps": request.steps or usual.steps,
            "cfg_scale": usual.cfg_scale if scale is None else scale,
            "sampling_method": sampler,
            "scheduler": scheduler,
        }
        resolved = Resolved(**{**vars(request), **settled})
        Walk(self.source, resolved)  # raises
        check_pictures(resolved, self.source)
        for name in SIZES:
            told = name.removesuffix("_size") in self.family.told
            if not told and getattr(request, name) is not None:
                raise ConfigError(
                    f"{name}: {self.source.name} is not told of it, as SDXL is; leave "
                    "it out"
                )
        return resolved

    def steps(self, request: Resolved) -> int:
        """How many steps each picture of a resolved request takes."""
        return len(Walk(self.source, request).sigmas) - 1

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
        for encoder in self.family.texts:
            self._models.pop(encoder, None)
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
        if (width := unet.config.guidance_width) is None:
            return unet
        if request.negative_prompt:
            log.warning(
                "%s is told its guidance, and takes no negative prompt",
                self.source.name,
            )
        return partial(unet, guidance=guidance_embedding(request.cfg_scale, width))

    def _scale(self, request: Resolved) -> float:
        """Of guidance by two outputs; 1, none, where the UNet is told instead."""
        told = self.source.config("unet").guidance_width is not None
        return 1.0 if told else request.cfg_scale

    def decode(self, latent: mx.array) -> Image.Image:
        """The picture of a latent, (1, h, w, C)."""
        return to_pil(self.codec.decode(latent)[0])

    def project(self, latent: mx.array) -> Image.Image:
        """A rough picture of a latent, one pixel for each of its own, at once."""
        return to_pil(self.family.latent.project(latent)[0])

    def parameters(self, request: Request) -> str:
        """A1111's text for a picture of a resolved request."""
        prompts = f"{request.prompt}\n{request.negative_prompt}"
        parts = self.embeddings.split(prompts) if self.embeddings else ()
        loading = self.loading
        if names := sorted({name for _, name in parts if name}):
            loading = {**loading, "embeddings": ", ".join(names)}
        return parameters(
            request,
            self.source.name,
            __version__,
            model_hash=self.model_hash.result(),
            parts=self.source.replaced,
            loading=loading,
        )

    @cached_property
    def model_hash(self) -> "Future[str | None]":
        """A1111's hash of the model file; its thread starts at the first look."""
        return model_hash_later(self.source.path)

    def _model(self, part: str) -> nn.Module:
        if part not in self._models:
            self._models[part] = self.source.build(part, self.dtype, self.types)
        return self._models[part]

    def _sample(
        self,
        image: int,
        request: Resolved,
        walk: Walk,
        denoiser: Denoiser,
        latent: mx.array | None,
    ) -> Generator[Progress, None, mx.array]:
        """Yields each step of a picture; returns its latent, (1, h, w, C)."""
        steps = len(walk.sigmas) - 1
        denoiser.begin()
        for step in walk.steps(request.seed, denoiser, latent):
            number, x = step.index + 1, step.x
            mx.eval(x, step.denoised)
            if not mx.isfinite(x).all():
                raise SDError(
                    f"step {number} of {steps} gave values that are no numbers;"
                    " try again with --dtype f32"
                )
            yield Progress(
                image,
                number,
                steps,
                step.sigma,
                step.denoised,
                x,
                walk.sigmas[number],
            )
            denoiser.step = number
        return x


def load(
    path_or_id: str | Path | None = None,
    *,
    diffusion_model: str | Path | None = None,
    clip_l: str | Path | None = None,
    clip_g: str | Path | None = None,
    vae: str | Path | None = None,
    dtype: str | None = None,
    type: str | None = None,
    tensor_type_rules: str | None = None,
    prediction: str | None = None,
    embd_dir: str | Path | None = None,
) -> Pipeline:
    """Open a model; its weights are checked now and read when first needed.

    Args:
        path_or_id: a weight file, a diffusers folder, or a Hugging Face id;
            None: the parts given, or else the small model that comes with the package.
        diffusion_model, clip_l, clip_g, vae: a file or folder whose UNet, first text
            encoder (SD 2.x's too), second one or VAE takes the place of the model's.
        dtype: to compute in: "f32", "f16" or "bf16"; None: float32 on a CPU, float16
            on a GPU.
        type: to hold weights of linear layers and convolutions in, one of
            quantize.TYPES, such as "q8_0"; None: as the file quantises, else dtype.
        tensor_type_rules: "regex=type,…" for names in the file; the first that is
            found in a name counts, before `type`.
        prediction: what the UNet predicts, one of PREDICTIONS; None: what the model's
            file tells.
        embd_dir: folder of textual inversion files, whose names are words of a prompt.

    Raises: CheckpointError if the model is missing, broken or not understood;
        ConfigError for an unknown type or a malformed rule.
    """
    if dtype is not None and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    types = parse_rules(type, tensor_type_rules)
    parts = {
        "diffusion_model": diffusion_model,
        "clip_l": clip_l,
        "clip_g": clip_g,
        "vae": vae,
    }
    if path_or_id is None and not any(parts.values()):
        path_or_id = DEMO
    source = open_model(path_or_id, prediction=prediction, **parts)
    usual = defaults(source)
    level = logging.INFO if usual.label else logging.DEBUG
    what = f"taken for {usual.label} by {usual.by}: " if usual.label else ""
    log.log(level, "%s: %s%s unless told otherwise", source.name, what, usual)
    computed = dtype or DTYPE_NAMES[backend.compute_dtype()]
    loading = {
        "dtype": computed,
        "type": type,
        "tensor_type_rules": tensor_type_rules,
        "prediction": prediction,
    }
    return Pipeline(
        source,
        DTYPES[computed],
        types,
        embeddings=Embeddings(embd_dir, source.name) if embd_dir else None,
        loading={name: value for name, value in loading.items() if value},
    )
