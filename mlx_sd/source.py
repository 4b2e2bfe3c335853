"""A model's tensors, found and placed: its kind, its settings, whether it is whole."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .build import AS_IN_FILE, build, config, outline
from .convert.detect import Contents, Kind
from .convert.kinds import kind, tiny
from .convert.type_rules import TypeRules
from .errors import CheckpointError
from .families import FAMILIES, Family
from .folder import TOKENIZERS
from .sampling.levels import Levels, NoiseTable
from .sampling.prediction import PREDICTIONS, EdmV, Prediction
from .tokenizers.clip import ClipTokenizer
from .training import SCHEDULER, Training

OPTION_OF = {
    "unet": "--diffusion-model",
    "vae": "--vae",
    "clip_l": "--clip_l",
    "clip_h": "--clip_l",
    "clip_g": "--clip_g",
    "tae": "--taesd",
}


@dataclass
class Source:
    """The tensors of a model, found and placed; none of them read."""

    path: Path
    name: str  # of the model, for the text in a PNG
    contents: Contents
    folder: Path | None = None  # of diffusers, for its tokenizer and default size
    told: str | None = None  # what the UNet predicts, if the user or a probe says so
    metadata: Mapping[str, str] = field(default_factory=dict)  # of a safetensors file
    # Names of parts that have files of their own, by the label in a picture's text.
    replaced: dict[str, str] = field(default_factory=dict)
    # By part; to find one takes milliseconds, and a picture asks 17 times.
    _configs: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def config(self, part: str) -> Any:
        """The part's configuration. Raises: CheckpointError naming the file."""
        if part not in self._configs:
            self._configs[part] = config(part, self.contents.parts[part])
        return self._configs[part]

    @property
    def kind(self) -> Kind:
        """Raises: CheckpointError if there is no UNet to tell by, or a broken one."""
        if "unet" not in self.contents.parts:
            raise CheckpointError(
                f"{self.path}: holds no UNet, so no model to run; give one with "
                f"{OPTION_OF['unet']}"
            )
        return kind(self.config("unet"))

    @property
    def family(self) -> Family:
        """Raises: CheckpointError for a model that we cannot run."""
        kind = self.kind
        if kind.base not in FAMILIES or "other" in (kind.variant, kind.task):
            known = ", ".join(family.name for family in FAMILIES.values())
            raise CheckpointError(
                f"{self.path}: {kind.name} models do not run yet; {known} ones do"
            )
        return FAMILIES[kind.base]

    @cached_property
    def training(self) -> Training:
        """What the files say of it."""
        scheduler = self.settings(f"scheduler/{SCHEDULER}")
        return Training(self.path, self.contents.markers, scheduler, self.metadata)

    @property
    def prediction(self) -> type[Prediction]:
        """What the user says that the UNet predicts, else its files, else its family.

        Raises: CheckpointError if the files tell what we do not know.
        """
        if self.told is not None:
            return PREDICTIONS[self.told]
        if (said := self.training.prediction) is None:
            return self.family.prediction
        return PREDICTIONS[said[0]]

    @property
    def undecided(self) -> bool:
        """Whether only a look at the UNet's output tells what it predicts.

        `told` is to be set then; until it is, `prediction` is the family's usual one.
        """
        open_ = self.told is None and self.training.prediction is None
        return open_ and self.family.probe is not None

    @cached_property
    def noise(self) -> NoiseTable:
        """The noise of the model's training: its files' own, else its family's.

        Raises: CheckpointError for one that cannot be.
        """
        return self.training.noise(self.family.noise)

    def levels(self, shift: float | None = None) -> Levels:
        """The noise levels to be denoised; `shift`: see Prediction.levels.

        Raises: CheckpointError for levels that cannot be.
        """
        if self.prediction is EdmV:
            return self.training.edm()
        return self.prediction.levels(self.noise, shift)

    @property
    def codec(self) -> str:
        """The part that decodes: the VAE, or the tiny autoencoder in its place."""
        parts = self.contents.parts
        return "tae" if "tae" in parts and "vae" not in parts else "vae"

    def check(self) -> None:
        """Raises: CheckpointError if this is not a whole model that we can run."""
        _ = self.levels()
        channels, kind = self.family.latent.channels, self.kind
        parts = self.contents.parts
        for part in (self.codec if part == "vae" else part for part in kind.parts):
            if part not in parts:
                raise CheckpointError(
                    f"{self.path}: holds no {part}; give one with {OPTION_OF[part]}"
                )
            outline(part, parts[part])
        for part in parts.keys() & {"vae", "tae"}:
            self._check_codec(part, channels)
        width = sum(self.config(part).width for part in kind.texts)
        if width != (wanted := self.config("unet").context_width):
            raise CheckpointError(
                f"{self.file(kind.texts[0])}: a text encoder {width} wide does not "
                f"fit the UNet, which wants {wanted}"
            )
        self._check_vector()

    def _check_codec(self, part: str, channels: int) -> None:
        config, option = self.config(part), OPTION_OF[part]
        if (found := config.latent_channels) != channels:
            name = "VAE" if part == "vae" else tiny(found)
            raise CheckpointError(
                f"{self.file(part)}: a {name} with {found} latent channels does not "
                f"fit the UNet, which has {channels}; give another with {option}"
            )
        if config.decoder is None:
            raise CheckpointError(
                f"{self.file(part)}: holds no decoder; give that of the "
                f"{tiny(channels)} with {option}"
            )

    def _check_vector(self) -> None:
        last = self.kind.texts[-1]
        found = self.family.vector_width(self.config(last).projection)
        if found != (wanted := self.config("unet").vector_width):
            raise CheckpointError(
                f"{self.file(last)}: the pooled text and picture sizes make a vector "
                f"of {found} numbers, and the UNet wants {wanted}; give another text "
                f"encoder with {OPTION_OF[last]}"
            )

    def build(
        self, part: str, dtype: mx.Dtype, types: TypeRules = AS_IN_FILE
    ) -> nn.Module:
        """The part's model, filled; see build.build."""
        return build(part, self.contents.parts[part], dtype, types)

    @cached_property
    def tokenizer(self) -> ClipTokenizer:
        """The folder's own where the vocabulary is not CLIP's.

        Raises: CheckpointError if there is none for this vocabulary.
        """
        tokenizer, first = ClipTokenizer.standard(), self.kind.texts[0]
        size = self.config(first).vocabulary
        for part in self.kind.texts[1:]:
            if (other := self.config(part).vocabulary) != size:
                raise CheckpointError(
                    f"{self.file(part)}: a vocabulary of {other} tokens; the other "
                    f"text encoder's has {size}; take both from the same model"
                )
        if size == tokenizer.vocab_size:
            return tokenizer
        if self.folder is None:
            raise CheckpointError(
                f"{self.file(first)}: its vocabulary of {size} tokens is not "
                f"CLIP's {tokenizer.vocab_size}, and a single file brings no "
                "tokenizer; use the model's diffusers folder"
            )
        folder = self.folder / TOKENIZERS[first]
        tokenizer = ClipTokenizer.from_folder(folder)
        if size != tokenizer.vocab_size:
            raise CheckpointError(
                f"{folder}: has {tokenizer.vocab_size} tokens, the "
                f"text encoder {size}; take both from the same model"
            )
        return tokenizer

    def parameters(self, part: str) -> int:
        """How many numbers the part's weights hold."""
        return sum(math.prod(p.shape) for p in self.contents.parts[part].values())

    @property
    def sample_size(self) -> int | None:
        """Width and height in pixels that the folder names, if it does."""
        latent = self.settings("unet/config.json").get("sample_size")
        if type(latent) is not int or latent < 1:
            return None
        return latent * self.family.latent.reduction

    def settings(self, file: str) -> dict[str, Any]:
        """A JSON file of the diffusers folder's; empty if there is none."""
        return _json(self.folder / file) if self.folder else {}

    def file(self, part: str) -> Path:
        """The file that a part is in, its first if there are several."""
        parameters = self.contents.parts[part].values()
        return next(iter(parameters)).entry.path


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    return loaded if isinstance(loaded, dict) else {}
