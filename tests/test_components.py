"""Networks of every family at full size against diffusers and transformers."""

import family_components
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("row", family_components.measures())
def test_component_matches_its_reference(row):
    assert family_components.measures()[row]() < family_components.BOUND
