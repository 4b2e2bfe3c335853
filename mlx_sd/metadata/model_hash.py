"""A1111's short hash of a model file, computed once per file."""

import hashlib
import json
import logging
import os
import threading
from concurrent.futures import Future
from pathlib import Path

from ..image import whole_file

log = logging.getLogger(__name__)


def model_hash(path: Path) -> str | None:
    """The first ten hexadecimal digits of the file's SHA-256, as A1111 names models.

    Kept in `$XDG_CACHE_HOME/mlx-sd/hashes.json` (by default below `~/.cache`) by path,
    size and time of change, if that can be written. None for a folder, and for a file
    that cannot be read.
    """
    try:
        path = path.resolve()
        if not path.is_file():
            return None
        found = path.stat()
        key = f"{path}|{found.st_size}|{found.st_mtime_ns}"
        known = _known()
        if key not in known:
            known[key] = _sha256(path)[:10]
            _keep(known)
        return known[key]
    except OSError as error:
        log.warning("%s: no hash of this model: %s", path, error.strerror)
        return None


def model_hash_later(path: Path) -> "Future[str | None]":
    """`model_hash` in a thread of its own, which does not keep the program alive."""
    future: Future[str | None] = Future()
    work = threading.Thread(
        target=lambda: future.set_result(model_hash(path)), daemon=True
    )
    work.start()
    return future


def _cache() -> Path:
    """Raises: RuntimeError for a user without a home."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "mlx-sd" / "hashes.json"


def _known() -> dict[str, str]:
    try:
        known = dict(json.loads(_cache().read_bytes()))
    except (OSError, RuntimeError, ValueError, TypeError):  # or nested without end
        return {}
    return {key: name for key, name in known.items() if isinstance(name, str)}


def _keep(known: dict[str, str]) -> None:
    try:
        cache = _cache()
        cache.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(cache) as file:
            file.write(json.dumps(known, indent=1).encode())
    except (OSError, RuntimeError) as error:
        log.debug("hashes of models are not kept: %s", error)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
