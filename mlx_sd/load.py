"""From a path or a Hugging Face id to a model whose every weight is accounted for."""

import json
import logging
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .build import BUILDERS, build, config, outline
from .convert.detect import Contents, as_part, identify, with_prefixes
from .convert.readers import Entry, read_file
from .errors import CheckpointError
from .families import FAMILIES, Family
from .folder import FOLDERS, choose_weights
from .hub import fetch, is_repo_id
from .tokenizers.clip import ClipTokenizer

log = logging.getLogger(__name__)

DEMO = Path(__file__).parent / "demo" / "picture-book"


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
    def family(self) -> Family:
        """Raises: CheckpointError for a model that we cannot run."""
        if "unet" not in self.contents.parts:
            raise CheckpointError(f"{self.path}: holds no UNet, so no model to run")
        config = self.config("unet")
        if config.linear_projections or config.vector_width is not None:
            raise CheckpointError(
                f"{self.path}: not an SD 1.x model (its text states are "
                f"{config.context_width} wide); only SD 1.x runs so far"
            )
        if config.in_channels != FAMILIES["sd1"].latent.channels:
            raise CheckpointError(
                f"{self.path}: its UNet takes {config.in_channels} channels, as "
                "inpainting and editing models do; only text to image runs so far"
            )
        kind = self._setting("scheduler/scheduler_config.json", "prediction_type")
        if kind not in (None, "epsilon"):
            raise CheckpointError(
                f"{self.path}: predicts {kind!r}, says its scheduler_config.json; only "
                "models that predict 'epsilon', noise, run so far"
            )
        return FAMILIES["sd1"]

    def check(self) -> None:
        """Raises: CheckpointError if this is not a whole model that we can run."""
        channels = self.family.latent.channels
        for part in BUILDERS:
            if part not in self.contents.parts:
                hint = "; give one with --vae" if part == "vae" else ""
                raise CheckpointError(f"{self.path}: holds no {part}{hint}")
            outline(part, self.contents.parts[part])
        if (found := self.config("vae").latent_channels) != channels:
            raise CheckpointError(
                f"{self._file('vae')}: a VAE with {found} latent channels does not fit "
                f"the UNet, which has {channels}; give another with --vae"
            )
        width, wanted = self.config("clip_l").width, self.config("unet").context_width
        if width != wanted:
            raise CheckpointError(
                f"{self._file('clip_l')}: a text encoder {width} wide does not fit the "
                f"UNet, which wants {wanted}"
            )

    def build(self, part: str, dtype: mx.Dtype) -> nn.Module:
        """The part's model, filled; see build.build."""
        return build(part, self.contents.parts[part], dtype)

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


def open_source(path_or_id: str | Path, vae: str | Path | None = None) -> Source:
    """Find a model's files and place their tensors, without reading any.

    Args:
        path_or_id: a weight file, a diffusers folder, or a Hugging Face id, whose
            needed files are downloaded or taken from the cache.
        vae: a file or diffusers VAE folder that replaces the model's VAE.

    Raises: CheckpointError if something is missing, broken or not understood.
    """
    path = Path(path_or_id)
    try:
        if not path.exists() and is_repo_id(str(path_or_id)):
            path = fetch(str(path_or_id))
        entries, folder = _open(path)
        if vae is not None:
            replacement = as_part(_part_file(Path(vae)), "vae")
            kept = identify(entries).parts.get("vae", {})
            replaced = {parameter.entry.name for parameter in kept.values()}
            entries = {n: e for n, e in entries.items() if n not in replaced}
            entries |= replacement
    except OSError as error:
        where = error.filename or path
        raise CheckpointError(
            f"{where}: cannot be read ({error.strerror}); check the path and who may "
            "read it"
        ) from error
    asked = Path(path_or_id).resolve()
    name = asked.stem if asked.is_file() else asked.name
    return Source(path, name, identify(entries), folder)


def open_model(path_or_id: str | Path, vae: str | Path | None = None) -> Source:
    """As open_source, and sure to run: every part is there and every weight fits."""
    source = open_source(path_or_id, vae)
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
            unknown[0],
            source.path,
        )
    return source


def _open(path: Path) -> tuple[dict[str, Entry], Path | None]:
    if not path.is_dir():
        return with_prefixes(read_file(path)), None
    if not (path / "unet").is_dir():
        raise CheckpointError(
            f"{path}: not a diffusers folder, which would have a unet folder in it; "
            "give that folder or a weight file"
        )
    entries: dict[str, Entry] = {}
    for part, name in FOLDERS.items():
        if (path / name).is_dir():
            entries |= as_part(_part_file(path / name), part)
    return entries, path


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
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    return loaded if isinstance(loaded, dict) else {}
