"""From a request to pictures, step by step."""

import logging
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx
from PIL import Image

from . import backend
from ._version import __version__
from .canvas import canvas, size_of
from .codec import Codec, codecs
from .convert.type_rules import TypeRules
from .defaults import defaults
from .denoiser import Denoiser, Relay
from .embeddings import Embeddings
from .errors import ConfigError, SDError, unknown
from .image import save, to_pil
from .metadata import model_hash_later, parameters
from .opening import DEMO, open_model, open_refiner
from .quantize import parse_rules
from .request import SIZES, Request, Resolved
from .sampling.samplers import SAMPLERS
from .source import Source
from .stage import Stage
from .start import Start, check_pictures, starting
from .tiling import Tiling
from .walk import Progress, Walk

log = logging.getLogger(__name__)

_SWITCH = 0.8  # A1111's, as the refiner was trained on the last fifth of the noise


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


class Pipeline(Stage):
    """A model that is ready to paint. Parts are read when first needed.

    What a request carries decides: from noise; from `init_img`, all of it, under `mask`
    or beyond its edges; or after `ref_image`, by a model that edits.

    The text encoder is released once a prompt is encoded, and its result kept; the UNet
    and the VAE stay for the next request. With a refiner one of the two UNets is in
    memory at a time.
    """

    def __init__(
        self,
        source: Source,
        dtype: mx.Dtype,
        types: TypeRules,
        *,
        embeddings: Embeddings | None = None,
        tiling: Tiling | None = None,
        loading: Mapping[str, Any] | None = None,
        refiner: Stage | None = None,
        low_memory: bool = False,
    ):
        """
        Args:
            loading: what of load()'s arguments decides over pixels, for metadata.
            refiner: paints the last steps; see Request.refiner_switch.
            low_memory: see load().
        """
        super().__init__(source, dtype, types, embeddings, low_memory)
        self.refiner = refiner
        self.loading = dict(loading or {})
        self.codec, self.tiny = codecs(source, dtype, types, tiling)

    def __call__(
        self,
        request: Request,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> list[Image.Image]:
        """All pictures of a request, RGB; `on_progress` is called for each step.

        They have the request's width and height, but with `inpaint_full_res` the size
        of `init_img`. Raises: as stream() does.
        """
        images = []
        for event in self.stream(request):
            if isinstance(event, Picture):
                images.append(event.image)
            elif on_progress is not None:
                on_progress(event)
        return images

    def stream(
        self, request: Request, keep: bool = True
    ) -> Iterator[Progress | Picture]:
        """Denoise each picture, yielding every step, then decode and yield them all.

        Stop iterating to cancel: no further step is computed. A step is done when it is
        yielded, but on a GPU begun, so that the next can be before it has ended; what
        looks at its latents waits for them.

        Args:
            keep: whether the UNet stays in memory for the next request.

        Raises: ConfigError for settings that do not fit together or the model; SDError
            if a latent or a pixel is not a finite number.
        """
        request = self.resolve(request)
        walk = Walk(self.source, request)
        backend.prepare_for(self._unet_parameters)
        stages = self._stages(request, walk)
        for stage, _ in stages:
            stage.prompts(request)  # which raises, if at all, before there is work
        board, draw = canvas(request), walk.draw(request.seed)
        start = starting(request, board, self.source, self.codec, draw)
        requests = [
            replace(request, seed=request.seed + i, batch_count=1)
            for i in range(request.batch_count)
        ]
        relays = [Relay() for _ in requests]
        walks = [
            walk.steps(single.seed, relay, start.latent)
            for single, relay in zip(requests, relays, strict=True)
        ]
        latents: list[mx.array] = []
        for stage, steps in stages:
            denoisers, latents = self._enter(stage, request, walk, start), []
            for i, relay in enumerate(relays):
                relay.turn = denoisers()
                some = islice(walks[i], len(steps))
                latents.append((yield from walk.take(some, i, steps, relay.turn)))
                relay.turn = None  # and so lets go of its UNet
            del denoisers
        # Beside a UNet that is not recorded, such as a quantised one, memory is for it.
        self.codec.may_record = self._unet is not None and self._unet.recorded
        if self.low_memory or not keep:
            walk.wait()
            for stage, _ in stages:
                stage.release()

        for single, latent in zip(requests, latents, strict=True):
            try:
                image = self.decode(latent)
            except SDError:
                walk.wait()  # to tell of a step that failed, not of what came of it
                raise
            walk.wait()
            yield Picture(board.finished(image) if board else image, single, self)

    def resolve(self, request: Request) -> Resolved:
        """The request with what it left open: a seed, and what the model has usually.

        Raises: ConfigError for settings that do not fit together or the model.
        """
        self.decide()
        usual = defaults(self.source)
        pictured = size_of(request, self.family.latent.reduction)
        width, height = pictured or (usual.size, usual.size)
        drawn = random.randrange((1 << 32) - request.batch_count)
        sampler = request.sampling_method or usual.sampling_method
        scheduler = request.scheduler
        if scheduler is None and request.sigmas is None:
            scheduler = SAMPLERS[sampler].scheduler or usual.scheduler
        scale = request.cfg_scale
        settled = {
            "seed": drawn if request.seed < 0 else request.seed,
            "width": request.width or width,
            "height": request.height or height,
            "steps": request.steps or usual.steps,
            "cfg_scale": usual.cfg_scale if scale is None else scale,
            "sampling_method": sampler,
            "scheduler": scheduler,
            "refiner_switch": self._switch(request),
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

    def _switch(self, request: Request) -> float | None:
        if self.refiner is None and request.refiner_switch is not None:
            raise ConfigError(
                f"refiner_switch {request.refiner_switch:g}: there is no refiner; give "
                "one with --refiner"
            )
        told = request.refiner_switch
        return _SWITCH if self.refiner is not None and told is None else told

    def _stages(self, request: Resolved, walk: Walk) -> list[tuple[Stage, range]]:
        """Who takes which steps.

        As in A1111: the refiner those of which this part of all lies behind.
        """
        if self.refiner is None or request.refiner_switch is None:
            return [(self, range(walk.count))]
        switch = request.refiner_switch
        first = sum(i / walk.count < switch for i in range(walk.count))
        stages = (self, range(first)), (self.refiner, range(first, walk.count))
        return [(stage, steps) for stage, steps in stages if steps]

    def _enter(
        self, stage: Stage, request: Resolved, walk: Walk, start: Start
    ) -> Callable[[], Denoiser]:
        """The denoisers of a stage; the other's UNet is released first."""
        if stage is not self:
            walk.wait()
            self.release()
            stage.decide()
            start = replace(start, concat=None, blind=None)  # for the first UNet alone
        elif self.refiner is not None:
            self.refiner.release()
        return stage.denoisers(request, start, walk.cache)

    def steps(self, request: Resolved) -> int:
        """How many steps each picture of a resolved request takes."""
        return Walk(self.source, request).count

    def decode(self, latent: mx.array, codec: Codec | None = None) -> Image.Image:
        """The picture of a latent, (1, h, w, C), by `codec` or as finished ones are."""
        return to_pil((codec or self.codec).decode(latent)[0])

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
        named = dict(self.source.replaced)
        if self.refiner is not None:
            digest = self.refiner_hash.result()
            hashed = f" [{digest}]" if digest else ""  # as A1111 writes it
            named["Refiner"] = self.refiner.source.name + hashed
        return parameters(
            request,
            self.source.name,
            __version__,
            model_hash=self.model_hash.result(),
            parts=named,
            loading=loading,
        )

    @cached_property
    def _unet_parameters(self) -> int:
        """How many, which take 0.6 ms to count."""
        return self.source.parameters("unet")

    @cached_property
    def model_hash(self) -> "Future[str | None]":
        """A1111's hash of the model file; its thread starts at the first look."""
        return model_hash_later(self.source.path)

    @cached_property
    def refiner_hash(self) -> "Future[str | None]":
        """The same of the refiner."""
        assert self.refiner is not None
        return model_hash_later(self.refiner.source.path)


def load(
    path_or_id: str | Path | None = None,
    *,
    diffusion_model: str | Path | None = None,
    clip_l: str | Path | None = None,
    clip_g: str | Path | None = None,
    vae: str | Path | None = None,
    taesd: str | Path | None = None,
    taesd_preview_only: bool = False,
    vae_tiling: Tiling | None = None,
    dtype: str | None = None,
    type: str | None = None,
    tensor_type_rules: str | None = None,
    prediction: str | None = None,
    embd_dir: str | Path | None = None,
    refiner: str | Path | None = None,
    low_memory: bool = False,
) -> Pipeline:
    """Open a model; its weights are checked now and read when first needed.

    Args:
        path_or_id: a weight file, a diffusers folder, or a Hugging Face id;
            None: the parts given, or else the small model that comes with the package.
        diffusion_model, clip_l, clip_g, vae: a file or folder whose UNet, first text
            encoder (SD 2.x's too), second one or VAE takes the place of the model's.
        taesd: a file or folder of a tiny autoencoder (TAESD, TAESDXL), which paints in
            the VAE's place, roughly and at once. A half of one finds the other beside
            it, by its name.
        taesd_preview_only: whether the VAE stays for finished pictures.
        vae_tiling: how much to decode and encode at a time, for less memory and the
            same picture; None: all at once.
        dtype: to compute in: "f32", "f16" or "bf16"; None: float32 on a CPU, float16
            on a GPU.
        type: to hold weights of linear layers and convolutions in, one of
            quantize.TYPES, such as "q8_0"; None: as the file quantises, else dtype.
        tensor_type_rules: "regex=type,…" for names in the file; the first that is
            found in a name counts, before `type`.
        prediction: what the UNet predicts, one of PREDICTIONS; None: what the model's
            file tells.
        embd_dir: folder of textual inversion files, whose names are words of a prompt.
        refiner: a model, as path_or_id, for the last steps: SDXL's refiner, or any of
            the same latents; see Request.refiner_switch.
        low_memory: whether to take less memory and more time: the UNet sees one text
            at a time and goes before pictures are decoded, in tiles.

    Raises: CheckpointError if the model is missing, broken or not understood;
        ConfigError for an unknown type or a malformed rule.
    """
    if dtype is not None and dtype not in backend.DTYPES:
        raise unknown("dtype", dtype, backend.DTYPES)
    types = parse_rules(type, tensor_type_rules)
    parts = {
        "diffusion_model": diffusion_model,
        "clip_l": clip_l,
        "clip_g": clip_g,
        "vae": vae,
    }
    if path_or_id is None and not any(parts.values()):
        path_or_id = DEMO
    source = open_model(
        path_or_id,
        prediction=prediction,
        taesd=taesd,
        taesd_preview_only=taesd_preview_only,
        **parts,
    )
    usual = defaults(source)
    level = logging.INFO if usual.label else logging.DEBUG
    what = f"taken for {usual.label} by {usual.by}: " if usual.label else ""
    log.log(level, "%s: %s%s unless told otherwise", source.name, what, usual)
    computed = dtype or backend.compute_type()
    loading = {
        "dtype": computed,
        "type": type,
        "tensor_type_rules": tensor_type_rules,
        "prediction": prediction,
    }
    embeddings = Embeddings(embd_dir, source.name) if embd_dir else None
    last = None
    if refiner is not None:
        opened = open_refiner(refiner, source)
        last = Stage(opened, backend.DTYPES[computed], types, embeddings, low_memory)
    return Pipeline(
        source,
        backend.DTYPES[computed],
        types,
        embeddings=embeddings,
        refiner=last,
        tiling=Tiling() if low_memory and vae_tiling is None else vae_tiling,
        low_memory=low_memory,
        loading={name: value for name, value in loading.items() if value},
    )
