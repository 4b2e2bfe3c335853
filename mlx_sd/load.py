"""From a path or a Hugging Face id to a model whose every weight is accounted for."""

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .build import AS_IN_FILE, build, config, outline
from .convert.detect import Contents, Kind, as_part, combined, identify
from .convert.kinds import kind
from .convert.readers import Entry, read_file
from .convert.type_rules import TypeRules
from .errors import CheckpointError
from .families import FAMILIES, Family
from .folder import FOLDERS, choose_weights
from .hub import fetch, is_repo_id
from .tokenizers.clip import ClipTokenizer

log = logging.getLogger(__name__)

DEMO = Path(__file__).parent / "demo" / "picture-book"


# The options that give a part of its own → that part; clip_l is the first encoder.
OPTIONS = {
    "diffusion_model": "unet",
    "clip_l": "clip_l",
    "clip_g": "clip_g",
    "vae": "vae",
}
_OPTION_OF = {
    "unet": "--diffusion-model",
    "vae": "--vae",
    "clip_l": "--clip_l",
    "clip_h": "--clip_l",
    "clip_g": "--clip_g",
}


@dataclass
class Source:
    """The tensors of a model, found and placed; none of them read."""

    path: Path
    name: str  # of the model, for the text in a PNG
    contents: Contents
    folder: Path | None = None  # of diffusers, for its tokenizer and default size

    def config(self, part: str) -> Any:
        """The part's configuration. Raises: CheckpointError naming the file."""
        return config(part, self.contents.parts[part])

    @property
    def kind(self) -> Kind:
        """Raises: CheckpointError if there is no UNet to tell by, or a broken one."""
        if "unet" not in self.contents.parts:
            raise CheckpointError(
                f"{self.path}: holds no UNet, so no model to run; give one with "
                f"{_OPTION_OF['unet']}"
            )
        return kind(self.config("unet"))

    @property
    def family(self) -> Family:
        """Raises: CheckpointError for a model that we cannot run."""
        kind = self.kind
        if kind.base not in FAMILIES or kind.variant or kind.task:
            known = ", ".join(family.name for family in FAMILIES.values())
            raise CheckpointError(
                f"{self.path}: {kind.name} models do not run yet; {known} ones do"
            )
        for teller, prediction in self._predictions():
            if prediction not in (None, "epsilon"):
                raise CheckpointError(
                    f"{self.path}: predicts {prediction!r:.100}, says its {teller}; "
                    "only models that predict 'epsilon', noise, run so far"
                )
        return FAMILIES[kind.base]

    def _predictions(self) -> Iterator[tuple[str, Any]]:
        """What says what the UNet predicts, and what it says."""
        file = "scheduler/scheduler_config.json"
        yield Path(file).name, self._setting(file, "prediction_type")
        for marker in ("v_pred", "edm_vpred.sigma_max"):
            if marker in self.contents.markers:
                yield f"tensor {marker}", "v_prediction"

    def check(self) -> None:
        """Raises: CheckpointError if this is not a whole model that we can run."""
        channels, kind = self.family.latent.channels, self.kind
        for part in kind.parts:
            if part not in self.contents.parts:
                raise CheckpointError(
                    f"{self.path}: holds no {part}; give one with {_OPTION_OF[part]}"
                )
            outline(part, self.contents.parts[part])
        if (found := self.config("vae").latent_channels) != channels:
            raise CheckpointError(
                f"{self._file('vae')}: a VAE with {found} latent channels does not fit "
                f"the UNet, which has {channels}; give another with --vae"
            )
        width = sum(self.config(part).width for part in kind.texts)
        if width != (wanted := self.config("unet").context_width):
            raise CheckpointError(
                f"{self._file(kind.texts[0])}: a text encoder {width} wide does not "
                f"fit the UNet, which wants {wanted}"
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
        tokenizer = ClipTokenizer.standard()
        size = self.config("clip_l").vocabulary
        if size == tokenizer.vocab_size:
            return tokenizer
        if self.folder is None:
            raise CheckpointError(
                f"{self._file('clip_l')}: its vocabulary of {size} tokens is not "
                f"CLIP's {tokenizer.vocab_size}, and a single file brings no "
                "tokenizer; use the model's diffusers folder"
            )
        tokenizer = ClipTokenizer.from_folder(self.folder / "tokenizer")
        if size != tokenizer.vocab_size:
            raise CheckpointError(
                f"{self.folder / 'tokenizer'}: has {tokenizer.vocab_size} tokens, the "
                f"text encoder {size}; take both from the same model"
            )
        return tokenizer

    def parameters(self, part: str) -> int:
        """How many numbers the part's weights hold."""
        return sum(math.prod(p.shape) for p in self.contents.parts[part].values())

    def size(self) -> int:
        """Default width and height in pixels: the folder's, else the family's."""
        latent = self._setting("unet/config.json", "sample_size")
        if isinstance(latent, int):
            return latent * self.family.latent.reduction
        return self.family.size

    def _setting(self, file: str, key: str) -> Any:
        """A value from the diffusers folder's own settings; None if there is none."""
        return _json(self.folder / file).get(key) if self.folder else None

    def _file(self, part: str) -> Path:
        parameters = self.contents.parts[part].values()
        return next(iter(parameters)).entry.path


def open_source(
    path_or_id: str | Path | None = None, **parts: str | Path | None
) -> Source:
    """Find a model's files and place their tensors, without reading any.

    Args:
        path_or_id: a weight file, a diffusers folder, or a Hugging Face id, whose
            needed files are downloaded or taken from the cache; None if the parts are
            the whole model.
        parts: for names in OPTIONS, a file or a part's diffusers folder; each takes
            the place of the model's own part.

    Raises: CheckpointError if something is missing, broken or not understood.
    """
    given = {option: Path(path) for option, path in parts.items() if path is not None}
    asked = next(iter(given.values())) if path_or_id is None else Path(path_or_id)
    path = asked
    try:
        if path_or_id is None:
            contents, folder = Contents.empty(), None
        else:
            if not path.exists() and is_repo_id(str(path_or_id)):
                path = fetch(str(path_or_id))
            contents, folder = _open(path)
        for option, file in given.items():
            part = as_part(_part_file(file), OPTIONS[option])
            contents = combined(contents, part)
    except OSError as error:
        where = error.filename or path
        raise CheckpointError(
            f"{where}: cannot be read ({error.strerror}); check the path and who may "
            "read it"
        ) from error
    return Source(path, _name(asked), contents, folder)


def open_model(
    path_or_id: str | Path | None = None, **parts: str | Path | None
) -> Source:
    """As open_source, and sure to run: every part is there and every weight fits."""
    source = open_source(path_or_id, **parts)
    try:
        source.check()
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; see what it holds with: mlx-sd inspect {source.path}"
        ) from error
    if unknown := source.contents.unknown:
        log.warning(
            "%s: %d tensors are not used, first %r; list them with: mlx-sd inspect %s",
            source.path,
            len(unknown),
            next(iter(unknown)),
            source.path,
        )
    return source


def _name(path: Path) -> str:
    asked = path.resolve()
    return asked.stem if asked.is_file() else asked.name


def _open(path: Path) -> tuple[Contents, Path | None]:
    if not path.is_dir():
        return identify(read_file(path)), None
    if not (path / "unet").is_dir():
        raise CheckpointError(
            f"{path}: not a diffusers folder, which would have a unet folder in it; "
            "give that folder or a weight file"
        )
    contents = Contents.empty()
    for part in OPTIONS.values():
        folder = path / FOLDERS[part]
        if folder.is_dir():
            found = as_part(_part_file(folder), part)
            contents = combined(contents, found.under(folder.name))
    return contents, path


def _part_file(path: Path) -> dict[str, Entry]:
    """The tensors of a file, or of one part's folder."""
    if path.is_dir():
        path /= choose_weights([child.name for child in path.iterdir()], str(path))
    return read_file(path)


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    return loaded if isinstance(loaded, dict) else {}
