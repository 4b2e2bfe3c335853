"""`--preview`: what a picture looks like so far, in a file that every step replaces."""

from dataclasses import dataclass
from pathlib import Path

from ..image import save
from ..pipeline import Pipeline, Progress

WAYS = ("none", "proj", "vae")


@dataclass(frozen=True)
class Preview:
    pipeline: Pipeline
    way: str  # "proj": one pixel for each of the latent's, at once; "vae": decoded
    path: Path
    interval: int  # steps
    noisy: bool  # with the noise that is left, instead of what the model makes of it

    def show(self, progress: Progress) -> None:
        """Write the picture if it is its turn. Raises: SDError."""
        if self.way == "none" or progress.step % self.interval:
            return
        latent = progress.denoised
        if self.noisy:
            latent = self.pipeline.source.prediction.scale_input(
                progress.latent, progress.target
            )
        draw = self.pipeline.project if self.way == "proj" else self.pipeline.decode
        save(draw(latent), self.path)
