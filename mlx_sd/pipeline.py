"""From a request to pictures, step by step."""

import logging
import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import mlx.core as mx
import mlx.nn as nn
from PIL import Image

from . import backend
from ._version import __version__
from .convert.type_rules import TypeRules
from .errors import ConfigError, SDError
from .families import Conditioning
from .image import save, to_pil
from .load import DEMO, Source, open_model
from .metadata import parameters
from .models.clip import ClipText
from .models.unet import UNet
from .models.vae import AutoencoderKL
from .quantize import parse_rules
from .request import Request
from .sampling.guidance import cfg
from .sampling.noise import RNGS, latent_noise
from .sampling.samplers import SAMPLERS, Denoise
from .sampling.schedules import sigmas

log = logging.getLogger(__name__)

DTYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}


@dataclass(frozen=True)
class Progress:
    """One denoising step is done."""

    image: int  # from 0 to batch_count - 1
    step: int  # from 1 to steps
    steps: int
    sigma: float  # the noise level that was denoised from
    denoised: mx.array  # (1, h, w, 4) the clean latent as predicted now


@dataclass(frozen=True)
class Picture:
    image: Image.Image
    request: Request  # with the seed, width and height that were used
    parameters: str  # A1111's text

    def save(self, path: str | Path) -> None:
        """Write a PNG, JPEG or WebP file with the parameters in it; see image.save."""
        save(self.image, Path(path), self.parameters)


class Pipeline:
    """A model that is ready to paint. Parts are read when first needed.

    The text encoder is released once a prompt is encoded, and its result kept; the UNet
    and the VAE stay for the next request.
    """

    def __init__(self, source: Source, dtype: mx.Dtype, types: TypeRules):
        self.source = source
        self.dtype = dtype
        self.types = types
        self.family = source.family
        self._models: dict[str, nn.Module] = {}
        self._texts: dict[str, Conditioning] = {}

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

        Raises: SDError if a latent or a pixel is not a finite number.
        """
        request = self.resolve(request)
        backend.prepare_for(self.source.parameters("unet"))
        cond = self.encode(request.prompt)
        uncond = None
        if request.cfg_scale != 1:
            uncond = self.encode(request.negative_prompt)
        self._models.pop("clip_l", None)

        unet = cast(UNet, self._model("unet"))
        denoise = self._denoise(unet, cond, uncond, request.cfg_scale)
        requests = [
            replace(request, seed=request.seed + i, batch_count=1)
            for i in range(request.batch_count)
        ]
        latents = []
        for i, single in enumerate(requests):
            latents.append((yield from self._sample(i, single, denoise)))

        vae = cast(AutoencoderKL, self._model("vae"))
        for single, latent in zip(requests, latents, strict=True):
            z = self.family.latent.to_vae(latent).astype(self.dtype)
            image = to_pil(vae.decode(z)[0])
            text = parameters(single, self.source.name, __version__)
            yield Picture(image, single, text)

    def resolve(self, request: Request) -> Request:
        """The request with its seed drawn, and its size the model's where left open."""
        size = self.source.size()
        last = (1 << 32) - request.batch_count
        seed = random.randrange(last) if request.seed < 0 else request.seed
        return replace(
            request,
            seed=seed,
            width=request.width or size,
            height=request.height or size,
        )

    def encode(self, prompt: str) -> Conditioning:
        """The prompt's text states, computed or remembered."""
        if prompt not in self._texts:
            tokenizer = self.source.tokenizer
            chunks = len(tokenizer.chunks(prompt, pad=tokenizer.eos))
            if chunks > 1:
                log.info(
                    "the prompt has more than 75 tokens and is read in %d chunks",
                    chunks,
                )
            clip = cast(ClipText, self._model("clip_l"))
            encoded = self.family.encode(clip, tokenizer, prompt)
            mx.eval(encoded.context)
            self._texts = {**dict(list(self._texts.items())[-7:]), prompt: encoded}
        return self._texts[prompt]

    def _model(self, part: str) -> nn.Module:
        if part not in self._models:
            self._models[part] = self.source.build(part, self.dtype, self.types)
        return self._models[part]

    def _sample(
        self, image: int, request: Request, denoise: Denoise
    ) -> Generator[Progress, None, mx.array]:
        """Yields each step of a picture; returns its latent, (1, h, w, C)."""
        latent, size = self.family.latent, self.source.size()
        shape = (
            (request.height or size) // latent.reduction,
            (request.width or size) // latent.reduction,
            latent.channels,
        )
        rng = RNGS[request.rng](request.seed)
        levels = sigmas(request.scheduler, request.steps, self.family.noise)
        x = latent_noise(rng, *shape) * levels[0]
        sampler = SAMPLERS[request.sampling_method]
        for step in sampler.run(denoise, x, levels, lambda: latent_noise(rng, *shape)):
            number, x = step.index + 1, step.x
            mx.eval(x, step.denoised)
            if not mx.isfinite(x).all():
                raise SDError(
                    f"step {number} of {request.steps} gave values that are no numbers;"
                    " try again with --dtype f32"
                )
            yield Progress(image, number, request.steps, step.sigma, step.denoised)
        return x

    def _denoise(
        self,
        unet: UNet,
        cond: Conditioning,
        uncond: Conditioning | None,
        scale: float,
    ) -> Denoise:
        """(x, sigma) → x0 under guidance, in float32 outside the network."""
        prediction, noise = self.family.prediction, self.family.noise

        def predict(x: mx.array, t: float, context: mx.array) -> mx.array:
            batch = context.shape[0]
            out = unet(mx.repeat(x, batch, axis=0), mx.full((batch,), t), context)
            return out.astype(mx.float32)

        def denoise(x: mx.array, sigma: float) -> mx.array:
            scaled, t = (
                prediction.scale_input(x, sigma).astype(self.dtype),
                noise.t(sigma),
            )
            if uncond is None:
                out = predict(scaled, t, cond.context)
            elif cond.context.shape == uncond.context.shape:
                both = mx.concatenate([cond.context, uncond.context])
                out_cond, out_uncond = mx.split(predict(scaled, t, both), 2)
                out = cfg(out_cond, out_uncond, scale)
            else:  # prompts of different lengths do not fit in one batch
                out_cond = predict(scaled, t, cond.context)
                out = cfg(out_cond, predict(scaled, t, uncond.context), scale)
            return prediction.x0(out, x, sigma)

        return denoise


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
) -> Pipeline:
    """Open a model; its weights are checked now and read when first needed.

    Args:
        path_or_id: an SD 1.x weight file, a diffusers folder, or a Hugging Face id;
            None: the parts given, or else the small model that comes with the package.
        diffusion_model, clip_l, clip_g, vae: a file or folder whose UNet, first text
            encoder (SD 2.x's too), second one or VAE takes the place of the model's.
        dtype: to compute in: "f32", "f16" or "bf16"; None: float32 on a CPU, float16
            on a GPU.
        type: to hold weights of linear layers and convolutions in, one of
            quantize.TYPES, such as "q8_0"; None: as the file quantises, else dtype.
        tensor_type_rules: "regex=type,…" for names in the file; the first that is
            found in a name counts, before `type`.

    Raises: CheckpointError if the model is missing, broken or not understood;
        ConfigError for an unknown type or a malformed rule.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    types = parse_rules(type, tensor_type_rules)
    parts = {
        "diffusion_model": diffusion_model,
        "clip_l": clip_l,
        "clip_g": clip_g,
        "vae": vae,
    }
    if path_or_id is None and not any(parts.values()):
        path_or_id = DEMO
    source = open_model(path_or_id, **parts)
    computed = DTYPES[dtype] if dtype else backend.compute_dtype()
    return Pipeline(source, computed, types)
