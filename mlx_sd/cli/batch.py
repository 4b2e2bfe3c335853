"""`--batch-file`: many pictures from one file, with the model loaded once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..request import Request, Resolved, override, typed
from .outputs import numbered
from .request_options import read_text


@dataclass(frozen=True)
class Job:
    request: Request
    paths: list[Path]  # one for each of its pictures


@dataclass(frozen=True)
class SettledJob(Job):
    """One whose request leaves nothing open."""

    request: Resolved


def read_batch(
    path: Path, given: Mapping[str, Any], output: Path, begin: int
) -> list[Job]:
    """The pictures that a file asks for.

    Args:
        path: .yaml, .yml or .json: a list of prompts, or of mappings with fields of a
            Request and `output`; any other: a prompt on each line that is not empty.
        given: fields from the command line, for entries that leave them out.
        output, begin: for entries without an output of their own; numbers go on from
            one entry to the next.

    Raises: ConfigError naming the entry; SDError if the file cannot be read.
    """
    requests, own = [], []
    if "prompt" in given and not _is_list(path):
        raise ConfigError(f"{path}: has a prompt on each line; leave out --prompt")
    for number, entry in enumerate(_entries(path), 1):
        where = f"{path}: entry {number}"
        entry = {"prompt": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}: neither a prompt nor a mapping of fields")
        own.append(entry.get("output"))
        entry = {str(name): v for name, v in entry.items() if name != "output"}
        requests.append(_request(where, given, entry))
    shared = sum(
        request.batch_count
        for request, at in zip(requests, own, strict=True)
        if at is None
    )
    # At least two, so that names are numbered even if there is but one picture.
    names = iter(numbered(output, max(shared, 2), begin))
    jobs = [
        Job(request, list(islice(names, request.batch_count)))
        if at is None
        else Job(request, numbered(Path(str(at)), request.batch_count))
        for request, at in zip(requests, own, strict=True)
    ]
    counts = Counter(at for job in jobs for at in job.paths)
    if twice := [at for at, count in counts.items() if count > 1]:
        raise ConfigError(f"{path}: {len(twice)} files are written twice: {twice[0]} …")
    return jobs


def _request(where: str, given: Mapping[str, Any], entry: dict[str, Any]) -> Request:
    if "prompt" not in {**given, **entry}:
        raise ConfigError(f"{where}: has no prompt")
    try:
        own = {name: typed(name, value) for name, value in entry.items()}
        return Request(**override(given, own))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml", ".json")


def _entries(path: Path) -> list[Any]:
    import yaml  # 40 ms, which few commands need

    text = read_text(path)
    if not _is_list(path):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        loaded = yaml.safe_load(text)  # JSON is YAML
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not YAML: {reason:.200}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deep") from error
    if not isinstance(loaded, list):
        raise ConfigError(f"{path}: holds no list of pictures to make")
    return loaded
