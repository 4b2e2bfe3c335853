"""Models by Hugging Face id: downloaded once, and only the files that are used."""

import json
import re
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from .errors import CheckpointError
from .folder import FOLDERS, choose_weights

_SMALL = ("model_index.json", "unet/config.json", "tokenizer/*")
_FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".json")


def is_repo_id(text: str) -> bool:
    """Whether it reads as owner/name, and not as the path of a weight file."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text)) and not (
        text.endswith(_FILES)
    )


def fetch(repo: str) -> Path:
    """The folder, or the file, that holds a repository's model in the local cache.

    Needed files that the cache lacks are downloaded, float16 ones where there is a
    choice. `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` work as usual.

    Raises: CheckpointError if the repository or the hub cannot be reached, or holds no
        model that we can read.
    """
    try:
        return _download(repo)
    except CheckpointError:
        raise
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo}: needs permission; ask for it on the model's page, then run: "
            "hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repo}: no such model on the hub, and no such file or folder here"
        ) from error
    # What a broken connection raises depends on the hub library's HTTP client.
    except Exception as error:
        return _cached(repo, error)


def _download(repo: str) -> Path:
    names = huggingface_hub.HfApi().list_repo_files(repo)
    wanted = _needed(repo, names)
    folder = Path(
        huggingface_hub.snapshot_download(repo, allow_patterns=[*wanted, *_SMALL])
    )
    for name in wanted:
        if name.endswith(".json"):  # an index: now its shards are known
            shards = set(json.loads((folder / name).read_text())["weight_map"].values())
            parent = PurePosixPath(name).parent
            huggingface_hub.snapshot_download(
                repo, allow_patterns=[str(parent / shard) for shard in shards]
            )
    return folder if len(wanted) > 1 else folder / wanted[0]


def _needed(repo: str, names: list[str]) -> list[str]:
    """Weight files (or indexes of them) to download, as paths in the repository."""
    if any(name.startswith("unet/") for name in names):
        return [
            f"{part}/{choose_weights(inside, f'{repo}/{part}', prefer_half=True)}"
            for part in FOLDERS.values()
            if (inside := [n[len(part) + 1 :] for n in names if n.startswith(part + "/")])
        ]
    single = [n for n in names if "/" not in n and n.endswith(".safetensors")]
    if len(single) == 1:
        return single
    found = f"{len(single)} single files: {', '.join(single[:5])}" if single else "none"
    raise CheckpointError(
        f"{repo}: expected a diffusers model or one .safetensors file, found {found}; "
        "download a file and give its path"
    )


def _cached(repo: str, error: Exception) -> Path:
    """The cache's copy, for when the hub cannot be asked."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    try:
        folder = Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{repo}: not in the cache, and the hub cannot be reached ({reason}); "
            "check the connection, HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from error
    single = sorted(folder.glob("*.safetensors"))
    return folder if (folder / "unet").is_dir() or not single else single[0]
