"""`--preview`: what a picture looks like so far, in a file that every step replaces."""

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from ..errors import ConfigError
from ..image import save
from ..pipeline import Pipeline, Progress

WAYS = ("none", "proj", "tae", "vae")


@dataclass(frozen=True)
class Preview:
    pipeline: Pipeline
    way: str  # "proj": one pixel for each of the latent's, at once; else decoded
    path: Path
    interval: int  # steps
    noisy: bool  # with the noise that is left, instead of what the model makes of it

    def check(self) -> None:
        """Raises: ConfigError if there is nothing to make it with."""
        if self.way == "tae" and self.pipeline.tiny is None:
            raise ConfigError(
                "--preview tae: there is no tiny autoencoder; give one with --taesd"
            )

    def show(self, progress: Progress) -> None:
        """Write the picture if it is its turn. Raises: SDError."""
        if self.way == "none" or progress.step % self.interval:
            return
        latent = progress.denoised
        if self.noisy:
            latent = self.pipeline.source.prediction.scale_input(
                progress.latent, progress.target
            )
        if not mx.isfinite(latent).all():
            return  # the pipeline says so next, with the step
        if self.way == "proj":
            image = self.pipeline.project(latent)
        else:
            codec = self.pipeline.tiny if self.way == "tae" else None
            image = self.pipeline.decode(latent, codec)
        save(image, self.path)
