"""Pictures of full-size SD 2.x and SDXL against stable-diffusion.cpp's."""

import functools
import shutil

import full_families
import pytest
from full_families import BOUND, CASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Kind → its file, written once. Of 10 GB in all, nothing is left behind."""
    folder = tmp_path_factory.mktemp("full")
    yield functools.cache(
        lambda kind: full_families.write(kind, folder / f"{kind}.safetensors")
    )
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", CASES)
def test_picture_is_that_of_stable_diffusion_cpp(name, checkpoint):
    path = checkpoint(CASES[name].kind)
    assert full_families.decibels(name, path) >= BOUND
