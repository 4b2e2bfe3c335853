"""From a source's tensors to a file or folder of another format, type or naming."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..errors import CheckpointError
from .destination import Destination
from .detect import Contents
from .parameter import Parameters
from .plan import Planner
from .readers import Entry
from .rules import outgoing
from .single import metadata, single_file
from .source import Source
from .writers.diffusers import diffusers
from .writers.file import Content, replacement, write
from .writers.gguf import gguf
from .writers.safetensors import safetensors

log = logging.getLogger(__name__)

_OURS = {"format"}  # metadata that we write anyway

Progress = Callable[[int, int], object]  # takes the bytes written so far, and of all


def convert_source(
    source: Source, destination: Destination, progress: Progress
) -> None:
    """Write a source's tensors, but for those that only training needs.

    Raises: ConfigError if the destination is none for such a source; CheckpointError if
        it cannot be written, and then nothing is left of it.
    """
    destination.check([source.path, *_paths(source.contents)])
    planner = Planner(destination.types, destination.writable)
    files = _FORMATS[destination.kind](source, destination, planner)
    for notice in planner.notices():
        log.warning("%s: %s", source.path, notice)
    for notice in _left_out(source, destination):
        log.info("%s: %s", source.path, notice)
    _write(files, destination, progress)


Files = Mapping[str, Content]  # by path in the destination; "" is that itself


def _folder(source: Source, destination: Destination, planner: Planner) -> Files:
    base = source.kind.base
    return diffusers(
        source,
        {
            part: planner.part(given, outgoing(part, "diffusers", given, base))
            for part, given in source.contents.parts.items()
        },
    )


def _safetensors(source: Source, destination: Destination, planner: Planner) -> Files:
    tensors = single_file(source, destination.names, planner)
    return {"": safetensors(tensors, metadata(source))}


def _gguf(source: Source, destination: Destination, planner: Planner) -> Files:
    return {"": gguf(single_file(source, destination.names, planner))}


_FORMATS = {"": _folder, ".safetensors": _safetensors, ".gguf": _gguf}


def _paths(contents: Contents) -> set[Path]:
    return {e.path for e in (*_entries(contents.parts), *contents.unknown.values())}


def _entries(parts: Mapping[str, Parameters]) -> list[Entry]:
    return [p.entry for parameters in parts.values() for p in parameters.values()]


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
    if destination.kind != ".safetensors" and (told := metadata(source).keys() - _OURS):
        yield f"metadata left out: {', '.join(sorted(told))}"


def _write(files: Files, destination: Destination, progress: Progress) -> None:
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
