"""Between pictures and latents: the one place where a model's VAE is at work."""

import logging
from collections.abc import Callable
from functools import cached_property
from typing import cast

import mlx.core as mx

from .convert.type_rules import TypeRules
from .errors import ConfigError, SDError
from .models.vae import AutoencoderKL
from .source import Source

log = logging.getLogger(__name__)

Draw = Callable[[], mx.array]


class Codec:
    """A model's VAE, read when first needed.

    It computes in the type that the model does, but for float16: where a value is too
    large for that, which turns all that follows into no numbers, it begins again in
    float32, and goes on so.
    """

    def __init__(self, source: Source, dtype: mx.Dtype, types: TypeRules):
        self.dtype = dtype  # what it computes in now
        self._source, self._types = source, types
        self._latent = source.family.latent
        self.reduction = self._latent.reduction  # pixels per latent pixel, each way

    def decode(self, latent: mx.array) -> mx.array:
        """Latents → pictures.

        Args:
            latent: (B, h, w, C), in the diffusion model's scale.

        Returns: (B, 8h, 8w, 3) in about [-1, 1], evaluated, of the type computed in.
        Raises: SDError if the latent or a pixel is not finite.
        """
        if not _finite(latent):
            raise SDError("the latent to decode holds values that are no numbers")
        z = self._latent.to_vae(latent)
        return self._run("decoder", lambda: self._vae.decode(z.astype(self.dtype)))

    def encode(
        self, image: mx.array, draw: Draw | None, scaled: bool = True
    ) -> mx.array:
        """Pictures → latents.

        Args:
            image: (B, H, W, 3) in [-1, 1], H and W multiples of 8.
            draw: gives standard normal noise of the latents' shape, by which they are
                drawn from the encoder's Gaussian; None takes the mean.
            scaled: to the diffusion model's scale; else as the VAE gives them, which
                SD 1.x Instruct-Pix2Pix is shown.

        Returns: (B, H/8, W/8, C) float32, evaluated.
        Raises: ConfigError if the VAE has no encoder; SDError if a value is not finite.
        """
        if self._source.config("vae").encoder is None:
            raise ConfigError(
                f"{self._source.file('vae')}: holds no encoder, which a picture to "
                "start from needs; give another VAE with --vae"
            )
        mean, logvar = (
            part.astype(mx.float32)
            for part in self._run("encoder", lambda: self._moments(image))
        )
        z = mean if draw is None else mean + mx.exp(0.5 * logvar) * draw()
        return self._latent.from_vae(z) if scaled else z

    def _moments(self, image: mx.array) -> mx.array:
        return mx.stack(list(self._vae.encode(image.astype(self.dtype))))

    def _run(self, coder: str, run: Callable[[], mx.array]) -> mx.array:
        """What `run` gives, in float32 if float16 is not enough."""
        if _finite(out := run()):
            return out
        if self.dtype == mx.float16:
            log.info("the VAE's %s exceeds float16; it computes in float32", coder)
            self.dtype = mx.float32
            del self._vae
            if _finite(out := run()):
                return out
        raise SDError(
            f"{self._source.file('vae')}: the VAE's {coder} gave values that are no "
            "numbers; give another with --vae"
        )

    @cached_property
    def _vae(self) -> AutoencoderKL:
        return cast(AutoencoderKL, self._source.build("vae", self.dtype, self._types))


def _finite(x: mx.array) -> bool:
    return bool(mx.isfinite(x).all())
