"""The bundled model, loaded once for all tests that paint with it."""

import functools
from typing import Any

from mlx_sd import Pipeline, load

bundled = functools.cache(load)


def load_once(model: str | None, **loading: Any) -> Pipeline:
    """load() as `mlx-sd generate` calls it, anew for all but the model as it is."""
    if model is None and not any(loading.values()):
        return bundled()
    return load(model, **loading)
