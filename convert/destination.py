"""Where a conversion goes to: checked before any work is done."""

import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, ConfigError
from .dtypes import PLAIN
from .ggml import TYPE_IDS
from .rules.outgoing import SCHEMES
from .type_rules import TypeRules

_READ_ONLY = {"F64", "F8_E4M3", "F8_E5M2"}  # types that we write as others, as sd.cpp

# Suffix of a file → the types that it can hold. A folder, without one, holds
# safetensors files.
_WRITABLE: dict[str, Collection[str]] = {
    ".safetensors": PLAIN.keys() - _READ_ONLY,
    ".gguf": TYPE_IDS.keys() - _READ_ONLY,
    "": PLAIN.keys() - _READ_ONLY,
}
_SPARE = 1 << 20  # bytes that a file system may want for itself


@dataclass(frozen=True)
class Destination:
    path: Path
    types: TypeRules
    names: str | None  # a key of SCHEMES; None: those that are usual there
    force: bool  # what is there may go

    @property
    def kind(self) -> str:
        """Its suffix; "" for a folder."""
        return "" if self.path.is_dir() else self.path.suffix.lower()

    @property
    def writable(self) -> Collection[str]:
        """The types of tensors that it can hold."""
        return _WRITABLE[self.kind]

    def check(self, sources: Iterable[Path]) -> None:
        """
        Args:
            sources: files and folders that the conversion reads.

        Raises: CheckpointError if something is there that must not be lost.
        """
        path = self.path
        if not path.exists():
            return
        real = path.resolve()
        if any(real in (s.resolve(), *s.resolve().parents) for s in sources):
            raise CheckpointError(f"{path}: is what is read; write to another path")
        if self.kind == "" and not any(path.iterdir()):
            return
        if self.kind == "" and not (path / "model_index.json").exists():
            raise CheckpointError(
                f"{path}: is a folder with other things in it; name a new one"
            )
        if not self.force:
            raise CheckpointError(f"{path}: exists; replace it with --force")

    def reserve(self, size: int) -> None:
        """Make the folder that it will be in.

        Raises: CheckpointError unless that has room for `size` bytes.
        """
        parent = self.path.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(parent).free
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot write there: {error.strerror}"
            ) from error
        if free < size + _SPARE:
            raise CheckpointError(
                f"{self.path}: needs {size / 1e9:.2f} GB, and the disk has "
                f"{free / 1e9:.2f} GB free; make room or choose another disk"
            )


def destination(
    path: Path,
    type: str | None,
    tensor_type_rules: str | None,
    names: str | None,
    force: bool,
) -> Destination:
    """
    Args:
        type, tensor_type_rules: see TypeRules.parse.
        names: a key of SCHEMES; None: those that are usual there.

    Raises: ConfigError for an unknown kind of file, type or naming, or for a file that
        cannot have such.
    """
    types = TypeRules.parse(type, tensor_type_rules)
    found = Destination(path, types, names, force)
    if found.kind not in _WRITABLE:
        raise ConfigError(
            f"{path}: unknown kind of file {found.kind!r}; name a .safetensors or "
            ".gguf file, or a new folder, without a dot, for diffusers"
        )
    if names is not None and names not in SCHEMES:
        raise ConfigError(f"names {names!r} are unknown; choose {' or '.join(SCHEMES)}")
    if found.kind == "" and names == "ldm":
        raise ConfigError(f"{path}: is a folder, and those have diffusers' names alone")
    for wanted in types.mentioned:
        if wanted not in found.writable:
            raise ConfigError(
                f"{path}: cannot hold {wanted.lower()}, but f32, f16 and bf16; name a "
                ".gguf file"
            )
    return found
