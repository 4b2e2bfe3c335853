"""Textual inversion: words of a prompt that stand for vectors from files.

Source: Gal et al. 2022 (arXiv 2208.01618).
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import mlx.core as mx

from .convert.readers import Entry, read_file
from .errors import CheckpointError, ConfigError
from .tokenizers.chunks import SLICE

log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt", ".gguf")
ONLY = ""  # what the encoder of a file with one tensor is called here
_SDXL = {"clip_l", "clip_g"}


class Embeddings:
    """The embedding files of a folder; a file is read when a prompt names it."""

    def __init__(self, folder: str | Path, model: str):
        """
        Args:
            folder: --embd-dir; its own files, not those of folders in it.
            model: its name, for messages.

        Raises: ConfigError if there is no such folder.
        """
        self.model = model
        self._files: dict[str, list[Path]] = {}
        try:
            listed = sorted(Path(folder).iterdir())
        except OSError as error:
            raise ConfigError(
                f"--embd-dir {folder}: not a folder that can be read"
            ) from error
        for path in listed:
            if path.suffix.lower() in SUFFIXES:
                self._files.setdefault(path.stem.lower(), []).append(path)
        self._names = sorted(self._files, key=len, reverse=True)
        either = "|".join(f"({re.escape(name)})" for name in self._names)
        self._pattern = re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)

    def split(self, text: str) -> Iterator[tuple[str, str | None]]:
        """The text in parts, each with the embedding that it names, or None.

        A name is a file's stem, in any case, as a whole word: no letter, digit or
        underscore is beside it. The longest name counts.
        """
        end = 0
        for match in self._pattern.finditer(text) if self._names else ():
            yield text[end : match.start()], None
            yield match[0], self._names[(match.lastindex or 0) - 1]
            end = match.end()
        yield text[end:], None

    def read(self, name: str, widths: Mapping[str, int]) -> dict[str, mx.array]:
        """The vectors of an embedding, (N, width) float32 for each encoder.

        Args:
            widths: of the model's text encoders, by name: clip_l and clip_g, or one.

        Raises: CheckpointError naming the file if it is broken or does not fit.
        """
        path, *others = self._files[name]
        if others:
            raise CheckpointError(
                f"{path} and {others[0].name} have one name; rename or move one"
            )
        tensors = _tensors(path)
        if len(widths) == 1 and set(tensors) == {ONLY}:
            tensors = {encoder: tensors[ONLY] for encoder in widths}
        if set(tensors) != set(widths):
            kind = "SDXL" if len(tensors) > 1 else "a model with one text encoder"
            raise CheckpointError(
                f"{path}: made for {kind}, which {self.model} is not; move it, or "
                f"do not name {name!r} in the prompt"
            )
        vectors = {
            encoder: self._vectors(tensors[encoder], width)
            for encoder, width in widths.items()
        }
        if len({len(array) for array in vectors.values()}) > 1:
            raise CheckpointError(
                f"{path}: has not as many vectors for one text encoder as for the other"
            )
        return vectors

    def _vectors(self, entry: Entry, width: int) -> mx.array:
        path, shape = entry.path, entry.shape
        if len(shape) not in (1, 2) or not 1 <= shape[0] or not shape[-1]:
            raise CheckpointError(
                f"{path}: {entry.name} of shape {list(shape[:16])} is no list of "
                "vectors; is it an embedding?"
            )
        if shape[-1] != width:
            raise CheckpointError(
                f"{path}: vectors {shape[-1]} wide do not fit {self.model}, whose text "
                f"encoder is {width} wide; get the embedding made for its kind of model"
            )
        if len(shape) == 2 and shape[0] > SLICE:
            raise CheckpointError(
                f"{path}: {shape[0]} vectors; a chunk of the prompt holds {SLICE} at "
                "most"
            )
        vectors = entry.read().reshape(-1, width)
        if (
            not mx.issubdtype(vectors.dtype, mx.floating)
            or not mx.isfinite(vectors).all()
        ):
            raise CheckpointError(f"{path}: {entry.name} holds what are no numbers")
        return vectors.astype(mx.float32)


class Vectors:
    """The embeddings that a prompt names, as ids beyond the vocabulary.

    It is the `names` of ClipTokenizer.chunks; afterwards table() is what the ids mean.
    """

    def __init__(self, embeddings: Embeddings, widths: Mapping[str, int], first: int):
        """
        Args:
            widths: see Embeddings.read.
            first: id of the first vector, the size of the vocabulary.
        """
        self._embeddings = embeddings
        self._widths = widths
        self._next = first
        self._ids: dict[str, range] = {}
        self._tables: dict[str, list[mx.array]] = {encoder: [] for encoder in widths}

    def __call__(self, text: str) -> Iterator[str | range]:
        for part, name in self._embeddings.split(text):
            yield part if name is None else self._place(name)

    def table(self, encoder: str) -> mx.array | None:
        """(N, width) float32, by id from `first` on; None if no name was found."""
        tables = self._tables[encoder]
        return mx.concatenate(tables) if tables else None

    def _place(self, name: str) -> range:
        if name not in self._ids:
            vectors = self._embeddings.read(name, self._widths)
            for encoder, array in vectors.items():
                self._tables[encoder].append(array)
            count = len(array)
            log.info("embedding %r is used; vectors: %d", name, count)
            self._ids[name] = range(self._next, self._next + count)
            self._next += count
        return self._ids[name]


def _tensors(path: Path) -> dict[str, Entry]:
    """By encoder; ONLY if there is one tensor, whatever its name.

    A1111 saves it as string_to_param.*, beside the id of string_to_token; diffusers as
    the token's name; others as emb_params.
    """
    entries = {
        name: entry
        for name, entry in read_file(path).items()
        if not name.startswith("string_to_token.")
    }
    if set(entries) == _SDXL:
        return entries
    if len(entries) != 1:
        raise CheckpointError(
            f"{path}: {len(entries)} tensors, first {next(iter(entries), None)!r}; an "
            "embedding has one, or clip_l and clip_g"
        )
    return {ONLY: next(iter(entries.values()))}
