"""Models by Hugging Face id: downloaded once, and only the files that are used."""

import json
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from .errors import CheckpointError
from .folder import FOLDERS, choose_weights

log = logging.getLogger(__name__)

_SMALL = (
    *("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"),
    "tokenizer/*",
)
_MALFORMED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
_FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".json")


def is_repo_id(text: str) -> bool:
    """Whether it reads as owner/name, and not as the path of a weight file."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text)) and not (
        text.lower().endswith(_FILES)
    )


def fetch(repo: str) -> Path:
    """The folder, or the file, that holds a repository's model in the local cache.

    Needed files that the cache lacks are downloaded, float16 ones where there is a
    choice. `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` work as usual. Progress goes
    to stderr, unless the log is set to errors only.

    Raises: CheckpointError if the model cannot be had from the hub nor, whole, from
        the cache, or is none that we can read.
    """
    try:
        with _progress(log.isEnabledFor(logging.WARNING)):
            return _download(repo)
    except CheckpointError:
        raise
    # What a broken connection raises depends on the hub library's HTTP client.
    except Exception as error:
        if path := _cached(repo):
            log.info("%s: not to be had from the hub; the cache's copy is used", repo)
            return path
        raise CheckpointError(f"{repo}: {_reason(error)}") from error


def _download(repo: str) -> Path:
    # Not list_repo_files, which tries for 23 s to reach a hub that is away.
    siblings = huggingface_hub.HfApi().model_info(repo).siblings or []
    wanted = _needed(repo, [sibling.rfilename for sibling in siblings])
    folder = _snapshot(repo, [*wanted, *_SMALL])
    if shards := _shards(folder, wanted):
        _snapshot(repo, shards)
    return _model(folder, wanted)


def _cached(repo: str) -> Path | None:
    """The cache's copy, if whole, for when the hub cannot be asked."""
    try:
        folder = _snapshot(repo, [], local_files_only=True)
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        wanted = _needed(repo, names)
        files = [folder / name for name in [*wanted, *_shards(folder, wanted)]]
    except (LocalEntryNotFoundError, CheckpointError):
        return None
    return _model(folder, wanted) if all(file.exists() for file in files) else None


def _reason(error: BaseException) -> str:
    """What went wrong and what to do, for a model that is not in the cache either."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # what the hub said
    gated = isinstance(error, GatedRepoError)
    if isinstance(error, RepositoryNotFoundError) and not gated:
        return (
            "no such model on the hub (a private one needs: hf auth login), and no "
            "such file or folder here"
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return "needs permission; ask on the model's page, then run: hf auth login"
    while deeper := error.__cause__ or error.__context__:
        error = deeper  # a refused connection, say, in an HTTP client's wrappings
    text = (str(error) or type(error).__name__).splitlines()[0]
    return (
        "no such file or folder, not whole in the cache, and the hub cannot be reached "
        f"({text}); check the connection, HF_ENDPOINT and HF_HUB_OFFLINE"
    )


def _snapshot(repo: str, patterns: list[str], local_files_only: bool = False) -> Path:
    folder = huggingface_hub.snapshot_download(
        repo, allow_patterns=patterns, local_files_only=local_files_only
    )
    return Path(folder)


def _needed(repo: str, names: Collection[str]) -> list[str]:
    """Weight files (or indexes of them) to download, as paths in the repository."""
    if any(name.startswith("unet/") for name in names):
        wanted = []
        for part in dict.fromkeys(FOLDERS.values()):
            prefix = f"{part}/"
            inside = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
            if inside:
                where = f"{repo}/{part}"
                wanted.append(prefix + choose_weights(inside, where, prefer_half=True))
        return wanted
    single = [n for n in names if "/" not in n and n.endswith(".safetensors")]
    if len(single) == 1:
        return single
    found = f"{len(single)} single files: {', '.join(single[:5])}" if single else "none"
    raise CheckpointError(
        f"{repo}: expected a diffusers model or one .safetensors file, found {found}; "
        "download a file and give its path"
    )


def _shards(folder: Path, wanted: list[str]) -> list[str]:
    """The files that the indexes among `wanted` name, as paths in the repository."""
    shards = set()
    for name in wanted:
        if name.endswith(".json"):
            try:
                files = json.loads((folder / name).read_text())["weight_map"].values()
                shards |= {str(PurePosixPath(name).parent / file) for file in files}
            except _MALFORMED as error:
                raise CheckpointError(
                    f"{folder / name}: not a readable index of shards; "
                    "delete it to download it again"
                ) from error
    return sorted(shards)


def _model(folder: Path, wanted: list[str]) -> Path:
    """A diffusers folder as such, a lone file by its path."""
    return folder if any("/" in name for name in wanted) else folder / wanted[0]


@contextmanager
def _progress(shown: bool) -> Iterator[None]:
    """Hide the hub's progress bars for a while, unless they are hidden already."""
    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
