"""Pictures of full-size SD 2.x and SDXL against stable-diffusion.cpp's."""

import full_families
import pytest
from full_families import BOUND, CASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Kind → its file, of which there is one at a time: SDXL's has 7 GB."""
    path, written = tmp_path_factory.mktemp("full") / "model.safetensors", []

    def write(kind):
        if written != [kind]:
            full_families.write(kind, path)
            written[:] = [kind]
        return path

    return write


@pytest.mark.parametrize("name", CASES)
def test_picture_is_that_of_stable_diffusion_cpp(name, checkpoint):
    path = checkpoint(CASES[name].kind)
    assert full_families.decibels(name, path) >= BOUND
