"""Models of real size that are filled layer by layer as they run.

SDXL's 10 GB of weights are never in memory at once. Those of `contents` are
seeded.py's, made when they are read: there is no file, but names, shapes and layouts go
the way of any file's.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import names
import numpy as np
import seeded
from mlx.utils import tree_flatten, tree_unflatten

from mlx_sd.build import outline
from mlx_sd.convert.detect import Contents, Parameters, as_part, identify
from mlx_sd.convert.readers import Entry
from mlx_sd.weights import read


def contents(kind: str, scheme: str, part: str) -> Contents:
    """A part of the kind's single file, of its folder, or of sd.cpp's GGUF file.

    Args:
        scheme: "ldm", "diffusers" or "sdcpp".
    """
    base, rows = names.KINDS[kind][0], names.rows(kind)[part]
    prefix = names.PREFIXES[base][part]
    if scheme == "diffusers":
        slot = "clip_l" if part == "clip_h" else part
        return as_part(dict(_shared_out(prefix, rows)), slot)
    renamed = names.NAMES["sdcpp"][base] if scheme == "sdcpp" else {}
    entries = {}
    for row in rows:
        seed = prefix + row[0]
        name = renamed.get(seed, seed)
        entries[name] = _entry(name, row[1], lambda s=seed, r=row: _made(s, r))
    return identify(entries)


def _made(seed: str, row: names.Row) -> np.ndarray:
    return seeded.tensor(seed, tuple(row[1]), np.float16)


def _entry(name: str, shape: list[int], values: Callable[[], np.ndarray]) -> Entry:
    def raw() -> np.ndarray:
        return np.ascontiguousarray(values()).reshape(-1).view(np.uint8)

    return Entry(Path("seeded"), name, "F16", tuple(shape), 2 * math.prod(shape), raw)


def _shared_out(prefix: str, rows: list[names.Row]) -> Iterator[tuple[str, Entry]]:
    """Diffusers' names, with what its converter gives them of single files' tensors.

    That takes q, k and v apart, in this order, and transposes the text projection.
    """
    shares: dict[str, list[str]] = {}
    for name, _, new, _ in rows:
        shares.setdefault(name, []).append(new or "")
    for row in rows:
        name, _, new, shape = row
        if new is None or shape is None:
            continue
        place, count = shares[name].index(new), len(shares[name])

        def values(row=row, place=place, count=count) -> np.ndarray:
            made = _made(prefix + row[0], row)
            return (
                made.T if row[0] == "text_projection" else np.split(made, count)[place]
            )

        yield new, _entry(new, shape, values)


class Layer(nn.Module):
    """A layer that has weights only while it runs."""

    def __init__(self, layer: nn.Module, parameters: Parameters):
        super().__init__()
        self._layer, self._parameters = layer, parameters

    def __call__(self, *inputs: mx.array, **options: bool) -> mx.array:
        return self._run(self._layer, *inputs, **options)

    def upsampling(self, x: mx.array) -> mx.array:
        return self._run(self._layer.upsampling, x)

    def into(self, conv: "Layer", x: mx.array) -> mx.array:
        return self._run(lambda: conv._run(self._layer.into, conv._layer, x))

    def _run(self, call: Callable[..., mx.array], *inputs, **options) -> mx.array:
        weights = [(n, read(p, mx.float32)) for n, p in self._parameters.items()]
        self._layer.load_weights(weights, strict=True)
        out = call(*inputs, **options)
        mx.eval(out)
        for name, _ in weights:
            setattr(self._layer, name, mx.zeros(self._parameters[name].shape))
        return out


def model(part: str, parameters: Parameters) -> nn.Module:
    """As build.build, in float32, but that its layers are streamed.

    Position embeddings, which are read and not called, are filled at once.
    """
    whole = outline(part, parameters)
    layers = dict(tree_flatten(whole.leaf_modules(), is_leaf=nn.Module.is_module))
    for path, layer in layers.items():
        own = {n: parameters[f"{path}.{n}"] for n in layer.parameters()}
        if path == "position":
            layer.load_weights([(n, read(p, mx.float32)) for n, p in own.items()])
        else:
            layers[path] = Layer(layer, own)
    whole.update_modules(tree_unflatten(list(layers.items())))
    whole.eval()
    return whole
