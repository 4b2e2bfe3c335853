"""From a part's parameters in files to its model, strictly filled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from .convert.configs import (
    clip_config,
    openclip_config,
    taesd_config,
    unet_config,
    vae_config,
)
from .convert.detect import Parameters, foreign_name
from .convert.type_rules import TypeRules
from .errors import CheckpointError, SDError
from .models.clip import ClipText
from .models.taesd import TinyAutoencoder
from .models.unet import UNet
from .models.vae import AutoencoderKL
from .nn.compact import COMPACT
from .quantize import held_type, hold, narrow_type
from .weights import read

AS_IN_FILE = TypeRules()
_LONGEST = 1 << 24  # of all axes; so MLX, whose lengths have 32 bits, holds any product

# How each part's configuration follows from its parameters, and the model from it.
BUILDERS: dict[str, tuple[Callable[[Parameters], Any], Callable[[Any], nn.Module]]] = {
    "unet": (unet_config, UNet),
    "vae": (vae_config, AutoencoderKL),
    "tae": (taesd_config, TinyAutoencoder),
    "clip_l": (clip_config, ClipText),
    "clip_h": (openclip_config, ClipText),
    "clip_g": (openclip_config, ClipText),
}


def config(part: str, parameters: Parameters) -> Any:
    """The part's configuration. Raises: CheckpointError naming the file."""
    path = _file(parameters)
    for parameter in parameters.values():
        name, shape = parameter.entry.name, parameter.entry.shape
        if not all(0 < length < _LONGEST for length in shape):
            raise CheckpointError(
                f"{path}: {name} has shape {list(shape)}, which no {part} can have"
            )
    try:
        return BUILDERS[part][0](parameters)
    except SDError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (IndexError, ValueError) as error:  # fewer axes than such a weight has
        raise CheckpointError(
            f"{path}: a weight of the {part} has the wrong number of axes"
        ) from error


def build(
    part: str, parameters: Parameters, dtype: mx.Dtype, types: TypeRules = AS_IN_FILE
) -> nn.Module:
    """Make a part's model and fill it, tensor by tensor.

    Args:
        dtype: what the model computes in, and the type of its weights but for those
            that it holds in another: see quantize.py.
        types: the types to hold weights in, where not as in the file.

    Raises: CheckpointError if a tensor is missing or has the wrong shape.
    """
    model = outline(part, parameters)
    layers = dict(tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module))
    weights: dict[str, mx.array] = {}
    for name, parameter in parameters.items():
        path = name.removesuffix(".weight")
        layer = layers.get(path)
        wanted = held_type(path, parameter, layer, types)
        wanted = wanted or narrow_type(path, parameter, layer, dtype)
        held = hold(parameter, wanted, dtype) if wanted else None
        if held is None:
            weights[name] = read(parameter, dtype)
        else:
            layers[path] = COMPACT[type(layers[path])](layers[path], held)
            weights |= {f"{path}.{key}": array for key, array in held.items()}
    model.update_modules(tree_unflatten(list(layers.items())))
    model.load_weights(list(weights.items()), strict=True)
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
