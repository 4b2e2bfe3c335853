"""Which weights a model holds in fewer bits than it computes with, and in which type.

Those are weights of linear layers and convolutions. What a file holds quantised stays
so where MLX has the like (PACKABLE) and the tensor's rows are our weight's rows, and
else becomes float16. All are re-typed when that is asked for, by stable-diffusion.cpp's
rules; but while those leave 3x3 convolutions alone, as their rows in a file are 3
values long, ours are long enough to be quantised.
"""

import math
import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .convert.detect import Parameter
from .convert.dtypes import DTYPES
from .convert.ggml import GGML
from .convert.ggml.packed import PACKABLE, pack
from .convert.ggml.quantize import QUANTIZERS
from .convert.layouts import LINEAR, POINT, ROWS, SAME
from .convert.type_rules import TYPES as FILE_TYPES
from .convert.type_rules import TypeRules, keeps_type
from .errors import ConfigError
from .nn.compact import COMPACT, Weights
from .weights import mapped, read, share

FLOATS = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
TYPES = tuple(t for t in FILE_TYPES if t.upper() in (*FLOATS, *PACKABLE))

# What keeps its type, whatever is asked for:
#   norms, biases, embeddings   are no weights of a linear layer or a convolution
#   time, vector                keeps_type: "time_embed.", "label_emb.", "embedding"
#   rows of no whole blocks     keeps_type
#   conv_in, conv_out           below: no layer behind or before them mends their errors
#   projection                  below: stable-diffusion.cpp keeps CLIP's in float, too
_KEPT = re.compile(r"(.*\.)?(conv_in|conv_out|projection)")

_MOST = float(np.finfo(np.float16).max)  # scales are of that type

_WITH_THEIR_ROWS = (SAME, POINT, LINEAR, ROWS)  # the layouts that keep rows whole


def parse_rules(type: str | None, tensor_type_rules: str | None) -> TypeRules:
    """The types to hold weights in, from what a user wrote; see TypeRules.parse.

    Raises: ConfigError for a malformed rule, or a type that MLX cannot hold.
    """
    rules = TypeRules.parse(type, tensor_type_rules)
    for wanted in (rules.default, *(dtype for _, dtype in rules.patterns)):
        if wanted is not None and wanted not in (*FLOATS, *PACKABLE):
            raise ConfigError(
                f"type {wanted}: weights can be read from it and converted to it, but "
                f"not held in it; choose from {', '.join(TYPES)}"
            )
    return rules


def held_type(
    path: str, parameter: Parameter, layer: nn.Module | None, rules: TypeRules
) -> str | None:
    """The type to hold a layer's weight in; None: in the one that is computed in.

    Args:
        path: of the layer in the model, such as "mid.0.res.conv1".
    """
    if type(layer) not in COMPACT:
        return None
    entry = parameter.entry
    wanted = rules.wanted(entry.name)
    if wanted and not _KEPT.fullmatch(path):
        if not keeps_type(entry.name, _matrix(parameter), wanted):
            return wanted
    if _is_packed(parameter):
        return entry.dtype
    return "F16" if entry.dtype in GGML else None


def narrow_type(
    path: str, parameter: Parameter, layer: nn.Module | None, dtype: mx.Dtype
) -> str | None:
    """The file's type, where it has half the bits of the one that is computed in.

    On a CPU, which computes in float32, that is half the memory; kernels widen it.
    """
    kind = parameter.entry.dtype
    narrow = dtype == mx.float32 and kind in ("F16", "BF16")
    can = type(layer) in COMPACT and not _KEPT.fullmatch(path)
    return kind if narrow and can else None


def hold(parameter: Parameter, wanted: str, dtype: mx.Dtype) -> Weights | None:
    """The weight in the type that is wanted, of FLOATS or PACKABLE.

    Quantised here, it has the values that it has in a file whose writer quantised it.

    Args:
        dtype: the one that is computed in.

    Returns: None if the weight is as well in that: the same, or it fits no other.
    """
    if wanted in FLOATS:
        if FLOATS[wanted] == dtype:
            return None
        try:
            return {"weight": read(parameter, FLOATS[wanted], over="raise")}
        except FloatingPointError:  # a number beyond float16
            return None
    if parameter.entry.dtype == wanted and _is_packed(parameter):
        raw: np.ndarray | None = parameter.entry.raw()
    else:
        raw = _quantized(parameter, wanted)
    packed = None if raw is None else pack(wanted, raw, _matrix(parameter))
    if packed is None:
        return None
    return {"weight": packed.weight, "scales": packed.scales, "biases": packed.biases}


def _quantized(parameter: Parameter, wanted: str) -> np.ndarray | None:
    """The weight as blocks of bytes, row by row; None if a value is beyond float16."""
    rows, columns = _matrix(parameter)
    block = DTYPES[wanted]
    blocks = np.empty((rows, columns // block.block * block.size), np.uint8)
    values = mapped(parameter, mx.float32)
    fits = []

    def quantize(stored: np.ndarray, out: np.ndarray) -> None:
        some = np.empty(stored.shape, values.dtype)
        values.cast(stored, some)
        matrix = some.view(np.float32).reshape(-1, columns)
        fits.append((np.abs(matrix) <= _MOST).all())  # which a NaN is not
        out[:] = QUANTIZERS[wanted](matrix)

    share(quantize, values.stored, blocks)
    return blocks.reshape(-1) if all(fits) else None


def _is_packed(parameter: Parameter) -> bool:
    """Whether the file holds our weight's rows as MLX can."""
    dtype, layout = parameter.entry.dtype, parameter.layout
    if dtype not in PACKABLE or layout not in _WITH_THEIR_ROWS:
        return False
    return _matrix(parameter)[1] % DTYPES[dtype].block == 0  # unless it was reshaped


def _matrix(parameter: Parameter) -> tuple[int, int]:
    """Rows and columns, of a convolution over all that one output is made of."""
    rows, *rest = parameter.shape
    return rows, math.prod(rest)
