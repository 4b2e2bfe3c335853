"""Between pictures and latents: the one place where an autoencoder is at work."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from typing import cast

import mlx.core as mx

from . import backend
from .convert.type_rules import TypeRules
from .cuda.vae import FastDecoder
from .errors import ConfigError, SDError
from .models import vae_bands
from .models.taesd import TinyAutoencoder
from .models.vae import AutoencoderKL
from .nn.bands import ALL
from .source import OPTION_OF, Source
from .tiling import Tiling

log = logging.getLogger(__name__)

Draw = Callable[[], mx.array]


class Codec:
    """A model's VAE or tiny autoencoder, read when first needed.

    It computes in the type that the model does, but for float16: where a value is too
    large for that, which turns all that follows into no numbers, it begins again in
    float32, and goes on so.
    """

    def __init__(
        self,
        source: Source,
        part: str,
        dtype: mx.Dtype,
        types: TypeRules,
        tiling: Tiling | None = None,
    ):
        """
        Args:
            part: "vae" or "tae".
            tiling: how much to compute at a time; None: all of a picture.
        """
        self.dtype = dtype  # what it computes in now
        self.may_record = False  # as FastDecoder's
        self._source, self._part, self._types = source, part, types
        self._tiling = tiling
        self._format = source.family.latent
        self.reduction = self._format.reduction  # pixels per latent pixel, each way
        self._name = "VAE" if part == "vae" else "tiny autoencoder"

    def decode(self, latent: mx.array) -> mx.array:
        """Latents → pictures.

        Args:
            latent: (B, h, w, C), in the diffusion model's scale.

        Returns: (B, 8h, 8w, 3) in about [-1, 1], evaluated, of the type computed in.
        Raises: SDError if the latent or a pixel is not finite.
        """
        finite = mx.isfinite(latent).all()
        mx.async_eval(finite)

        def run() -> mx.array:
            out = self._decode(latent)
            if not finite:  # looked at late, as a GPU may still be at work on it
                raise SDError("the latent to decode holds values that are no numbers")
            return out

        return self._run("decoder", run)

    def encode(
        self, image: mx.array, draw: Draw | None, scaled: bool = True
    ) -> mx.array:
        """Pictures → latents.

        Args:
            image: (B, H, W, 3) in [-1, 1], H and W multiples of 8.
            draw: gives standard normal noise of the latents' shape, by which a VAE's
                are drawn from its encoder's Gaussian; None takes the mean. A tiny
                autoencoder, whose latents are exact, asks for no noise.
            scaled: to the diffusion model's scale; else to that of VAEs, which SD 1.x
                Instruct-Pix2Pix is shown.

        Returns: (B, H/8, W/8, C) float32, evaluated.
        Raises: ConfigError if there is no encoder; SDError if a value is not finite.
        """
        if self._source.config(self._part).encoder is None:
            raise ConfigError(
                f"{self._source.file(self._part)}: holds no encoder, which a picture "
                "to start from needs; give another VAE with --vae, or both halves of a "
                "tiny autoencoder with --taesd"
            )
        out = self._run("encoder", lambda: self._encode(image)).astype(mx.float32)
        if self._part == "tae":
            return out if scaled else self._format.to_vae(out)
        mean, logvar = mx.split(out, 2, axis=-1)
        z = mean if draw is None else mean + mx.exp(0.5 * logvar) * draw()
        return self._format.from_vae(z) if scaled else z

    def _decode(self, latent: mx.array) -> mx.array:
        model, pixels = self._model, self._pixels(*latent.shape[1:3])
        if isinstance(model, TinyAutoencoder):
            return model.decode(latent.astype(self.dtype), pixels)
        z = self._format.to_vae(latent).astype(self.dtype)
        if pixels < ALL:
            return vae_bands.decode(model, z, pixels)
        if (out := self._in_one_piece(z)) is not None:
            return out
        self._tiling = Tiling()
        self.__dict__.pop("_whole", None)
        mx.clear_cache()
        return vae_bands.decode(model, z, self._pixels(*latent.shape[1:3]))

    def _in_one_piece(self, z: mx.array) -> mx.array | None:
        """None if memory does not suffice; what was computed of it is gone then.

        cuDNN's convolutions in float32 may ask for a hundred times the map.
        """
        try:
            out = self._whole(z, self.may_record)
            mx.eval(out)
            return out
        except (RuntimeError, MemoryError) as error:
            if not any(word in str(error).lower() for word in ("alloc", "memory")):
                raise
            log.warning("the %s decodes in tiles from now on: %s", self._name, error)
            return None

    def _encode(self, image: mx.array) -> mx.array:
        """What the encoder puts out: latents, or mean and log of the variance."""
        _, H, W, _ = image.shape
        reduction = self._format.reduction
        model, pixels = self._model, self._pixels(H // reduction, W // reduction)
        image = image.astype(self.dtype)
        if isinstance(model, TinyAutoencoder):
            return model.encode(image, pixels)
        if pixels < ALL:
            return mx.concatenate(list(vae_bands.encode(model, image, pixels)), axis=-1)
        return mx.concatenate(list(model.encode(image)), axis=-1)

    def _pixels(self, height: int, width: int) -> int:
        return self._tiling.pixels(height, width) if self._tiling else ALL

    def _run(self, coder: str, run: Callable[[], mx.array]) -> mx.array:
        """What `run` gives, in float32 if float16 is not enough."""
        with backend.frugal() if self._tiling else nullcontext():
            return self._in_range(coder, run)

    def _in_range(self, coder: str, run: Callable[[], mx.array]) -> mx.array:
        if _finite(out := run()):
            return out
        what = f"the {self._name}'s {coder}"
        if self.dtype == mx.float16:
            log.info("%s exceeds float16; it computes in float32", what)
            self.dtype = mx.float32
            del self._model
            self.__dict__.pop("_whole", None)
            if _finite(out := run()):
                return out
        raise SDError(
            f"{self._source.file(self._part)}: {what} gave values that are no numbers; "
            f"give another with {OPTION_OF[self._part]}"
        )

    @cached_property
    def _whole(self) -> FastDecoder:
        """Decodes a VAE's latents in one piece."""
        return FastDecoder(cast(AutoencoderKL, self._model))

    @cached_property
    def _model(self) -> AutoencoderKL | TinyAutoencoder:
        model = self._source.build(self._part, self.dtype, self._types)
        return cast(AutoencoderKL | TinyAutoencoder, model)


def codecs(
    source: Source, dtype: mx.Dtype, types: TypeRules, tiling: Tiling | None
) -> tuple[Codec, Codec | None]:
    """What finished pictures are decoded with, and a quick one for previews, if any."""
    codec = Codec(source, source.codec, dtype, types, tiling)
    if source.codec == "tae":
        return codec, codec
    if "tae" in source.contents.parts:
        return codec, Codec(source, "tae", dtype, types, tiling)
    return codec, None


def _finite(x: mx.array) -> bool:
    return bool(mx.isfinite(x).all())
