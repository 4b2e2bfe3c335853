"""Shared fixtures: an isolated cache, and checkpoints made from tensor names."""

import functools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import seeded  # noqa: E402


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path, monkeypatch):
    """No test may see, fill or depend on the user's model cache."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))


@pytest.fixture(scope="session")
def full_checkpoint(tmp_path_factory):
    """A function that writes, once, a full-size SD 1.5 checkpoint in float16: 2 GB."""

    @functools.cache
    def write() -> Path:
        path = tmp_path_factory.mktemp("full") / "sd15-seeded.safetensors"
        seeded.save(path, seeded.sd1_shapes())
        return path

    return write
