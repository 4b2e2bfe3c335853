"""From a source's tensors to a file or folder of another format, type or naming."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import CheckpointError
from ..folder import FOLDERS
from .destination import Destination
from .detect import Contents, prefix_of
from .parameter import Parameters
from .plan import Planner
from .readers import Entry
from .recode import Tensor
from .rules import Outgoing, outgoing
from .source import Source
from .writers.diffusers import diffusers
from .writers.file import Content, replacement, write
from .writers.gguf import gguf
from .writers.safetensors import safetensors

log = logging.getLogger(__name__)

Progress = Callable[[int, int], object]  # takes the bytes written so far, and of all

_FILES = {".safetensors": safetensors, ".gguf": gguf}


def convert_source(
    source: Source, destination: Destination, progress: Progress
) -> None:
    """Write a source's tensors, but for those that only training needs.

    Raises: CheckpointError if they cannot be written; then nothing is left of them.
    """
    destination.check([source.path, *_paths(source.contents)])
    planner = Planner(destination.types, destination.writable)
    if destination.kind == "":
        files = diffusers(source, _for_folder(source, planner))
    else:
        tensors = _for_file(source, destination.names, planner)
        files = {"": _FILES[destination.kind](tensors)}
    for notice in planner.notices():
        log.warning("%s: %s", source.path, notice)
    for notice in _left_out(source, destination):
        log.info("%s: %s", source.path, notice)
    _write(files, destination, progress)


def _paths(contents: Contents) -> set[Path]:
    return {e.path for e in (*_entries(contents.parts), *contents.unknown.values())}


def _entries(parts: Mapping[str, Parameters]) -> list[Entry]:
    return [p.entry for parameters in parts.values() for p in parameters.values()]


def _for_folder(source: Source, planner: Planner) -> dict[str, list[Tensor]]:
    """By part, under names without a prefix."""
    base = source.kind.base
    return {
        part: planner.part(parameters, outgoing(part, "diffusers", parameters, base))
        for part, parameters in source.contents.parts.items()
    }


def _for_file(source: Source, scheme: str, planner: Planner) -> list[Tensor]:
    contents = source.contents
    base = source.kind.base if "unet" in contents.parts else None
    tensors: list[Tensor] = []
    for part, parameters in contents.parts.items():
        parameters = parameters | contents.spare.get(part, {})
        names = _names(part, scheme, list(parameters), base, _is_lone(contents))
        tensors += planner.part(parameters, names)
    for name, entry in contents.markers.items():
        tensors += planner.marker(name, entry)
    for name, entry in contents.unknown.items():
        tensors += planner.other(name.replace("/", "."), entry)
    if not tensors:
        raise CheckpointError(f"{source.path}: holds no tensor that can be written")
    (name, times), *_ = Counter(tensor.name for tensor in tensors).most_common(1)
    if times > 1:
        raise CheckpointError(f"{source.path}: holds {name} under two names")
    return tensors


def _is_lone(contents: Contents) -> bool:
    """Whether this is one part of a model, in a file that does not name it."""
    named = any(prefix_of(entry.name) for entry in _entries(contents.parts))
    return len(contents.parts) == 1 and not named


def _names(
    part: str, scheme: str, ours: list[str], base: str | None, lone: bool
) -> Iterator[Outgoing]:
    """What a part's tensors are called in a file.

    A lone part keeps to names without a prefix. So do text encoders, whose names
    without one are Hugging Face's alone.
    """
    if lone and part.startswith("clip"):
        scheme = "diffusers"
    for out in outgoing(part, scheme, ours, base):
        if lone:
            yield replace(out, name=out.name[len(prefix_of(out.name)) :])
        elif scheme == "diffusers":
            yield replace(out, name=f"{FOLDERS[part]}.{out.name}")
        else:
            yield out


def _left_out(source: Source, destination: Destination) -> Iterator[str]:
    """What becomes of tensors that are no weights of ours, a line each."""
    contents = source.contents
    ignored = contents.ignored
    if destination.kind:
        spare = {entry.name for entry in _entries(contents.spare)}
        ignored = {n: x for n, x in ignored.items() if n.split("/")[-1] not in spare}
    if ignored:
        counts = Counter(ignored.values()).items()
        reasons = ", ".join(f"{count} ({reason})" for reason, count in counts)
        yield f"tensors left out, as no picture needs them: {reasons}"
    if contents.unknown:
        fate = "kept" if destination.kind else "left out"
        first = next(iter(contents.unknown))
        yield f"unknown tensors {fate}: {len(contents.unknown)}, first {first!r}"


def _write(
    files: Mapping[str, Content], destination: Destination, progress: Progress
) -> None:
    total = sum(content.size for content in files.values())
    destination.reserve(total)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(done, total)

    try:
        with replacement(destination.path) as part:
            for name, content in files.items():
                path = part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, content, count)
    except OSError as error:
        raise CheckpointError(
            f"{destination.path}: cannot be written ({error.strerror}); nothing was "
            "changed"
        ) from error
