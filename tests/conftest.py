"""Shared fixtures: an isolated cache, and checkpoints made from tensor names."""

import fcntl
import functools
import importlib
import os
from pathlib import Path

import emulated_gpu
import mlx.core as mx
import numpy as np
import pytest
import seeded
from digest import digests
from loaded import load_once
from safetensors.numpy import save_file

from mlx_sd.opening import open_model

# Pictures are compared to the byte, and a recording rounds otherwise: test_cuda.py.
os.environ.setdefault("MLX_SD_RECORDING", "off")


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path, monkeypatch):
    """No test may see, fill or depend on the user's model cache."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))


@pytest.fixture
def emulated(monkeypatch):
    """Recordings are made on a GPU, or else on an emulated one, which this gives."""
    return None if mx.cuda.is_available() else emulated_gpu.install(monkeypatch)


@pytest.fixture
def waits(monkeypatch) -> list[str]:
    """Those asked of MLX, which may hold operands still when its eval returns."""
    asked = []

    def wait(name, real, *arrays):
        asked.append(name)
        real(*arrays)

    for name in ("eval", "synchronize"):
        monkeypatch.setattr(mx, name, functools.partial(wait, name, getattr(mx, name)))
    return asked


@pytest.fixture(scope="session")
def arrays():
    """The tensors of the small seeded SD 1.x, under its authors' names."""
    return seeded.weights(seeded.small_shapes(), np.float16)


@pytest.fixture(scope="session")
def small(tmp_path_factory, arrays):
    """Them in a safetensors file."""
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    save_file(arrays, path)
    return path


@pytest.fixture(scope="session")
def expected(small):
    """The digests of what that file gives, with which all other layouts must agree."""
    return digests(open_model(small))


@pytest.fixture(scope="session")
def full_checkpoint(tmp_path_factory):
    """A function that writes a full-size SD 1.5 checkpoint in float16: 2 GB.

    Once for all processes of a run.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    @functools.cache
    def write() -> Path:
        path, part = folder / "sd15-seeded.safetensors", folder / "sd15-seeded.part"
        with open(part, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                seeded.save(part, seeded.sd1_shapes())
                part.rename(path)
        return path

    return write


@pytest.fixture
def loaded_once(monkeypatch):
    """`mlx-sd generate` paints with a bundled model that is loaded already."""
    command = importlib.import_module("mlx_sd.cli.generate")
    monkeypatch.setattr(command, "load", load_once)
