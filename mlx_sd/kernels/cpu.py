"""The operations on a CPU by native/, where the system has a C compiler.

It is to a CPU what mx.fast.metal_kernel and cuda_kernel are to a GPU: built at first
use, which takes two seconds, and kept in the user's cache. MLX evaluates what goes in;
the results are arrays of MLX that the C code has written to.
"""

import ctypes
import functools
import logging
import math
import os
import subprocess
import sys
from typing import Any

import mlx.core as mx

from .built import built
from .filled import filled
from .packed import Packed, Weight

log = logging.getLogger(__name__)

# As in native/conv.h:
_FLOAT_TYPES = (mx.float32, mx.float16, mx.bfloat16)
_PACKED = 16
_MOST_CHANNELS = 1 << 14

_LARGE = 1 << 19  # numbers; fewer are filled in the time that a call of Python takes
_CACHE = 256 << 20  # bytes of freed arrays that MLX keeps
_MMAP_THRESHOLD = -3, 4 << 20  # of malloc.h's mallopt


@functools.cache
def library() -> ctypes.CDLL | None:
    """The built code; None without a compiler, and on other systems than Linux."""
    if sys.platform != "linux" or os.environ.get("MLX_SD_NATIVE") == "off":
        return None
    try:
        code = ctypes.CDLL(str(built()))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("no native kernels: %s", error)
        return None
    # Less is worth keeping than MLX's convolutions need; backend.frugal's less stays.
    mx.set_cache_limit(min(_CACHE, mx.set_cache_limit(_CACHE)))
    # By itself glibc soon takes arrays of up to 32 MB from its heap, where one that is
    # in use keeps all below it from the system: 0.4 GB while a picture is painted.
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(*_MMAP_THRESHOLD)
    return code


@functools.cache
def _threads() -> int:
    told = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0))
    return min(cores, int(told)) if told and told.isdigit() else cores


# --- Calls ---

_Pointer, _Long = ctypes.c_void_p, ctypes.c_long


def _struct(name: str, **fields: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


def _longs(names: str) -> dict[str, type]:
    return dict.fromkeys(names.split(), _Long)


_Conv = _struct(
    "Conv",
    x=_Pointer,
    bias=_Pointer,
    add=_Pointer,
    out=_Pointer,
    data=_Pointer,
    type=_Long,
    scales=_Pointer,
    biases=_Pointer,
    **_longs(
        "batch height width channels high wide stride padding"
        " out_height out_width out_channels"
    ),
    table=_Pointer,
    **_longs("twice"),
    **_longs("columns rows"),
    v=_Pointer,
    **_longs("first count step"),
)
_Attention = _struct(
    "Attention",
    q=_Pointer,
    k=_Pointer,
    v=_Pointer,
    out=_Pointer,
    **_longs("batch queries keys width heads"),
    turned=_Pointer,
)
_Norm = _struct(
    "Norm",
    x=_Pointer,
    weight=_Pointer,
    bias=_Pointer,
    out=_Pointer,
    **_longs("batch pixels channels groups silu"),
    eps=ctypes.c_float,
    **_longs("rows blocks"),
    sums=_Pointer,
)
_Activation = _struct(
    "Activation", x=_Pointer, out=_Pointer, **_longs("kind rows width")
)


def _call(
    name: str,
    struct: type[ctypes.Structure],
    shape: tuple[int, ...],
    work: float,
    **fields: object,
) -> mx.array:
    """The result of a function of native/, of that shape.

    Args:
        work: multiplications or so; a little is not worth a second thread.
    """
    arrays = {k: mx.contiguous(v) for k, v in fields.items() if isinstance(v, mx.array)}
    out = _unwritten(shape)
    mx.eval(out, *arrays.values())
    pointers = {key: _address(array) for key, array in (*arrays.items(), ("out", out))}
    getattr(library(), name)(
        ctypes.byref(struct(**{**fields, **pointers})),
        ctypes.c_int(_threads() if work > 1e6 else 1),
    )
    return out


def _unwritten(shape: tuple[int, ...]) -> mx.array:
    """mx.empty fills memory, for a tenth of the time that the work on it takes."""
    if math.prod(shape) < _LARGE:
        return mx.empty(shape)
    return filled(shape, "<f4", lambda array: None)


def _address(array: mx.array) -> int:
    bytes_: Any = array.view(mx.uint8) if array.dtype == mx.bfloat16 else array
    view = memoryview(bytes_)
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def ready(x: mx.array, *_: Any, **__: Any) -> bool:
    """Whether this code can run, for an operation's first argument."""
    return x.dtype == mx.float32 and x.size > 0 and library() is not None


def attention_fits(
    q: mx.array, k: mx.array, v: mx.array, heads: int, mask: str | None = None
) -> bool:
    return mask is None and ready(q)


def attention(
    q: mx.array, k: mx.array, v: mx.array, heads: int, mask: str | None = None
) -> mx.array:
    B, L, D = q.shape
    M = k.shape[1]
    sizes = {"batch": B, "queries": L, "keys": M, "width": D, "heads": heads}
    work = B * L * M * D
    return _call("attention", _Attention, q.shape, work, q=q, k=k, v=v, **sizes)


def conv_fits(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    stride: int = 1,
    padding: int = 1,
) -> bool:
    return x.shape[3] <= _MOST_CHANNELS and linear_fits(x, weight)


def conv(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    stride: int = 1,
    padding: int = 1,
) -> mx.array:
    B, H, W, C = x.shape
    channels, high, wide, _ = weight.shape
    out_height = (H + 2 * padding - high) // stride + 1
    out_width = (W + 2 * padding - wide) // stride + 1
    fast = (high, wide, stride, padding) == (3, 3, 1, 1) and _winograd_fits(x)
    shape = (B, out_height, out_width, channels)
    window = {"high": high, "wide": wide, "stride": stride, "padding": padding}
    return _conv("winograd" if fast else "conv", shape, x, weight, bias, window)


def _winograd_fits(x: mx.array) -> bool:
    _, H, W, C = x.shape
    # Of a few pixels, four by four have less to do than their weights to be turned.
    return C % 16 == 0 and H * W > 64


def norm_conv_fits(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None,
    scale: mx.array,
    shift: mx.array,
    groups: int,
    eps: float,
) -> bool:
    return affine_conv_fits(x, scale, weight, bias)


def norm_conv(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None,
    scale: mx.array,
    shift: mx.array,
    groups: int,
    eps: float,
) -> mx.array:
    """Winograd's tiles are normalised as they are read, so the map never is."""
    B, _, _, C = x.shape
    how, arrays = _norm(x, scale, shift, groups, eps)
    table = _call("group_table", _Norm, (B, 2, C), 2 * x.size, **arrays, **how)
    return affine_conv(x, table, weight, bias)


def affine_conv_fits(
    x: mx.array, table: mx.array, weight: Weight, bias: mx.array | None
) -> bool:
    return weight.shape[1:3] == (3, 3) and _winograd_fits(x) and conv_fits(x, weight)


def affine_conv(
    x: mx.array, table: mx.array, weight: Weight, bias: mx.array | None
) -> mx.array:
    shape = (*x.shape[:3], weight.shape[0])
    return _conv("winograd", shape, x, weight, bias, {}, table=table)


def upsample_conv_fits(
    x: mx.array, weight: Weight, bias: mx.array | None = None
) -> bool:
    return x.shape[3] % 16 == 0 and conv_fits(x, weight)


def upsample_conv(
    x: mx.array, weight: Weight, bias: mx.array | None = None
) -> mx.array:
    B, H, W, _ = x.shape
    shape = (B, 2 * H, 2 * W, weight.shape[0])
    return _conv("winograd", shape, x, weight, bias, {"twice": 1})


def linear_fits(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    add: mx.array | None = None,
) -> bool:
    known = isinstance(weight, Packed) or weight.dtype in _FLOAT_TYPES
    return known and ready(x)


def linear(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    add: mx.array | None = None,
) -> mx.array:
    """A convolution of single pixels."""
    pixels = x.reshape(1, -1, 1, x.shape[-1])
    shape = (1, pixels.shape[1], 1, weight.shape[0])
    window = {"high": 1, "wide": 1, "stride": 1}
    more = {} if add is None else {"add": add.astype(mx.float32)}
    y = _conv("conv", shape, pixels, weight, bias, window, **more)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def _conv(
    name: str,
    shape: tuple[int, ...],
    x: mx.array,
    weight: Weight,
    bias: mx.array | None,
    how: dict[str, int],
    **arrays: mx.array,
) -> mx.array:
    B, H, W, C = x.shape
    _, out_height, out_width, channels = shape
    arrays["x"] = x
    if bias is not None:
        arrays["bias"] = bias.astype(mx.float32)
    if isinstance(weight, Packed):
        type_ = _PACKED + weight.bits
        arrays |= {"data": weight.words, "scales": weight.scales}
        arrays["biases"] = weight.biases
    else:
        type_ = _FLOAT_TYPES.index(weight.dtype)
        arrays["data"] = weight
    sizes = {
        "batch": B,
        "height": H,
        "width": W,
        "channels": C,
        "out_height": out_height,
        "out_width": out_width,
        "out_channels": channels,
    }
    work = math.prod(shape) * math.prod(weight.shape[1:])
    return _call(name, _Conv, shape, work, **arrays, **sizes, **how, type=type_)


def group_norm(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    groups: int,
    eps: float,
    silu: bool = False,
) -> mx.array:
    how, arrays = _norm(x, weight, bias, groups, eps)
    return _call("group_norm", _Norm, x.shape, 4 * x.size, **arrays, **how, silu=silu)


def _norm(
    x: mx.array, weight: mx.array, bias: mx.array, groups: int, eps: float
) -> tuple[dict[str, float], dict[str, mx.array]]:
    B, H, W, C = x.shape
    how = {"batch": B, "pixels": H * W, "channels": C, "groups": groups, "eps": eps}
    scale, shift = weight.astype(mx.float32), bias.astype(mx.float32)
    return how, {"x": x, "weight": scale, "bias": shift}


def moments(x: mx.array) -> mx.array:
    B, H, W, C = x.shape
    how = {"batch": B, "pixels": H * W, "channels": C}
    return _call("moments", _Norm, (B, 2, C), 2 * x.size, x=x, **how)


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    D = x.shape[-1]
    how = {"pixels": x.size // D, "channels": D, "eps": eps}
    scale, shift = weight.astype(mx.float32), bias.astype(mx.float32)
    arrays = {"x": x, "weight": scale, "bias": shift}
    return _call("layer_norm", _Norm, x.shape, 4 * x.size, **arrays, **how)


def _activation(x: mx.array, kind: int, width: int) -> mx.array:
    shape = (*x.shape[:-1], width)
    rows = math.prod(shape[:-1])
    how = {"kind": kind, "rows": rows, "width": width}
    return _call("activation", _Activation, shape, 4 * x.size, x=x, **how)


def silu(x: mx.array) -> mx.array:
    return _activation(x, 0, x.shape[-1])


def gelu(x: mx.array) -> mx.array:
    return _activation(x, 1, x.shape[-1])


def quick_gelu(x: mx.array) -> mx.array:
    return _activation(x, 2, x.shape[-1])


def geglu(x: mx.array) -> mx.array:
    return _activation(x, 3, x.shape[-1] // 2)
