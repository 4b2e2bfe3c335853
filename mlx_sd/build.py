"""From a part's parameters in files to its model, strictly filled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .convert.configs import clip_config, openclip_config, unet_config, vae_config
from .convert.detect import Parameters, foreign_name
from .errors import CheckpointError, SDError
from .models.clip import ClipText
from .models.unet import UNet
from .models.vae import AutoencoderKL

# How each part's configuration follows from its parameters, and the model from it.
BUILDERS: dict[str, tuple[Callable[[Parameters], Any], Callable[[Any], nn.Module]]] = {
    "unet": (unet_config, UNet),
    "vae": (vae_config, AutoencoderKL),
    "clip_l": (clip_config, ClipText),
    "clip_h": (openclip_config, ClipText),
    "clip_g": (openclip_config, ClipText),
}


def config(part: str, parameters: Parameters) -> Any:
    """The part's configuration. Raises: CheckpointError naming the file."""
    path = _file(parameters)
    try:
        return BUILDERS[part][0](parameters)
    except SDError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (IndexError, ValueError) as error:  # fewer axes than such a weight has
        raise CheckpointError(
            f"{path}: a weight of the {part} has the wrong number of axes"
        ) from error


def build(part: str, parameters: Parameters, dtype: mx.Dtype) -> nn.Module:
    """Make a part's model and fill it, tensor by tensor, with `dtype` weights.

    Raises: CheckpointError if a tensor is missing or has the wrong shape.
    """
    model = outline(part, parameters)
    weights = []
    for name, parameter in parameters.items():
        # First in order, then in type: the fastest way on a CPU.
        weight = mx.contiguous(parameter.read()).astype(dtype)
        mx.eval(weight)  # now, so that the file's copy goes before the next comes
        weights.append((name, weight))
    model.load_weights(weights, strict=True)
    model.eval()
    return model


def outline(part: str, parameters: Parameters) -> nn.Module:
    """The part's model without its weights, once each is known to fit."""
    model = BUILDERS[part][1](config(part, parameters))
    arrays: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    expected = {name: array.shape for name, array in arrays.items()}
    path = _file(parameters)
    if missing := [name for name in expected if name not in parameters]:
        sibling = next(iter(parameters.values())).entry.name
        first = [foreign_name(part, name, sibling) for name in missing[:3]]
        raise CheckpointError(
            f"{path}: {len(missing)} of the {part}'s {len(expected)} weights are "
            f"missing, first {', '.join(first)}"
        )
    for name, parameter in parameters.items():
        if name not in expected:
            raise CheckpointError(
                f"{path}: {parameter.entry.name} has no place in this {part}"
            )
        if parameter.shape != expected[name]:
            raise CheckpointError(
                f"{path}: {parameter.entry.name} has shape "
                f"{list(parameter.entry.shape)}, which does not fit {name} of "
                f"shape {list(expected[name])}"
            )
    return model


def _file(parameters: Parameters) -> Path:
    return next(iter(parameters.values())).entry.path
