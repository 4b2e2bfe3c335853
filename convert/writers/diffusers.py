"""Folders that diffusers' `from_pretrained` loads.

What a source folder says of itself is carried over; for single files the same is made
from the shapes of their weights and what is known of their family.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import CheckpointError
from ...folder import FOLDERS
from ...tokenizers.clip import ClipTokenizer
from ..parameter import Parameters
from ..recode import Tensor
from ..source import Source
from .components import Json
from .file import Content, content
from .safetensors import safetensors
from .settings import settings, tokenizer_folder

log = logging.getLogger(__name__)

_INDEX = "model_index.json"
_CARRIED = ("scheduler", "tokenizer", "tokenizer_2")  # folders, with all files in them


def diffusers(
    source: Source, tensors: Mapping[str, Sequence[Tensor]]
) -> dict[str, Content]:
    """The folder's files, by their path in it.

    Args:
        tensors: of each part, to be written, under names without a prefix.

    Raises: CheckpointError if a part is missing, or diffusers has no class for it.
    """
    parts, kind = source.contents.parts, source.kind
    if missing := [part for part in kind.parts if part not in parts]:
        raise CheckpointError(
            f"{source.path}: holds no {' and no '.join(missing)}, and a diffusers "
            "folder is a whole model; write .safetensors, or add what is missing"
        )
    texts = {path: _dumped(text) for path, text in settings(source).items()}
    carried = _carried(source.folder, parts) if source.folder else {}
    for part in kind.texts:
        name = f"{tokenizer_folder(part)}/"
        if any(path.startswith(name) for path in carried):
            texts = {p: text for p, text in texts.items() if not p.startswith(name)}
        else:
            texts |= _vocabulary(source, part)
    files = {path: content(text) for path, text in (texts | carried).items()}
    for part in kind.parts:
        stem = "model" if part in kind.texts else "diffusion_pytorch_model"
        files[f"{FOLDERS[part]}/{stem}.safetensors"] = safetensors(tensors[part])
    return files


def _carried(source: Path, parts: Mapping[str, Parameters]) -> dict[str, bytes]:
    """What the source folder says of the parts that come from it."""
    folders = [FOLDERS[part] for part in parts]
    paths = [path for name in _CARRIED for path in sorted((source / name).glob("*"))]
    for part, parameters in parts.items():
        config = source / FOLDERS[part] / "config.json"
        entry = next(iter(parameters.values())).entry
        if entry.path.parent == config.parent and config.exists():
            paths.append(config)
    found = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file()
    }
    if (source / _INDEX).exists():
        found[_INDEX] = _dumped(_index(source / _INDEX, [*folders, *_CARRIED]))
    return found


def _index(path: Path, written: Sequence[str]) -> Json:
    """The source's list of components, without those that are not written."""
    try:
        index: Json = json.loads(path.read_text())
        # A component is told by a library and a class of it.
        components = {n: v for n, v in index.items() if isinstance(v, list) and any(v)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    gone = [name for name in components if name not in written]
    if gone:
        log.info("%s: left out: %s", path.parent, ", ".join(gone))
    if "safety_checker" in gone:
        index["requires_safety_checker"] = False
    return index | dict.fromkeys(gone, (None, None))


def _vocabulary(source: Source, part: str) -> dict[str, bytes]:
    """CLIP's own, for a text encoder that brings none."""
    tokenizer, size = ClipTokenizer.standard(), source.config(part).vocabulary
    if size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{source.path}: its {part} has {size} tokens, not CLIP's "
            f"{tokenizer.vocab_size}, and a single file brings no tokenizer; write "
            ".safetensors"
        )
    return {
        f"{tokenizer_folder(part)}/{file}": text.encode()
        for file, text in tokenizer.files().items()
    }


def _dumped(text: Json) -> bytes:
    return json.dumps(text, indent=2, sort_keys=True).encode() + b"\n"
