"""Variants for Apple GPUs, made from MLX's source; not measured by us yet.

MLX has fused attention for some widths of a head (steel_attention), and computes the
others with all scores in memory. Its GroupNorm is several passes over the map.
"""

import logging
import os
from functools import cache
from typing import Any

import mlx.core as mx

from . import reference

log = logging.getLogger(__name__)

_FUSED = (64, 72, 80, 96, 128)  # widths of a head
_MANY = 1024  # queries, for whose scores more work pays
_THREADS = 256
_KERNEL_FLAG = "MLX_SD_METAL_NORM"


def padding(width: int) -> int:
    """Zeros that make a head as wide as the next one that MLX has fused."""
    wider = [fused for fused in _FUSED if fused >= width]
    return wider[0] - width if wider else 0


def attention_pads(
    q: mx.array, k: mx.array, v: mx.array, heads: int, mask: str | None = None
) -> bool:
    """Long enough for the scores to matter, and of a width that is not fused."""
    return q.shape[1] >= _MANY and padding(q.shape[-1] // heads) > 0


def padded_attention(
    q: mx.array, k: mx.array, v: mx.array, heads: int, mask: str | None = None
) -> mx.array:
    """With zeros behind each head, which change no product: 40 → 64 in SD 1.x."""
    B, L, D = q.shape
    width = D // heads
    more = [(0, 0), (0, 0), (0, 0), (0, padding(width))]
    q, k, v = (
        mx.pad(y.reshape(B, -1, heads, width), more).transpose(0, 2, 1, 3)
        for y in (q, k, v)
    )
    h = mx.fast.scaled_dot_product_attention(q, k, v, scale=width**-0.5, mask=mask)
    return h[..., :width].transpose(0, 2, 1, 3).reshape(B, L, D)


def group_norm_fits(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    groups: int,
    eps: float,
    silu: bool = False,
) -> bool:
    """If asked for by an environment variable, and right on this machine."""
    return os.environ.get(_KERNEL_FLAG) == "1" and x.ndim == 4 and _proven(x.dtype)


def group_norm(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    groups: int,
    eps: float,
    silu: bool = False,
) -> mx.array:
    """One pass for the sums and one for the result, a thread group per group."""
    (out,) = _norm_kernel()(
        inputs=[x, weight, bias, mx.array([eps], dtype=mx.float32)],
        template=[("T", x.dtype), ("GROUPS", groups), ("SILU", silu)],
        grid=(_THREADS * x.shape[0] * groups, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


@cache
def _proven(dtype: mx.Dtype) -> bool:
    """Whether the kernel compiles here and agrees with the reference."""
    x = (mx.random.normal((2, 9, 7, 96), key=mx.random.key(1)) + 2).astype(dtype)
    weight, bias = x[0, 0, 0] - 1, x[1, 1, 1]
    wide, w, b = (a.astype(mx.float32) for a in (x, weight, bias))
    expected = reference.group_norm(wide, w, b, 32, 1e-5, True)
    try:
        off = mx.abs(group_norm(x, weight, bias, 32, 1e-5, True) - expected).max()
        bound = {mx.float32: 1e-4, mx.float16: 1e-2}.get(dtype, 8e-2)
        right = bool((off <= bound).item())
    except (RuntimeError, ValueError) as problem:
        log.warning("%s: the kernel does not run here: %s", _KERNEL_FLAG, problem)
        return False
    if not right:
        log.warning("%s: the kernel is wrong here, and is not used", _KERNEL_FLAG)
    return right


@cache
def _norm_kernel() -> Any:
    return mx.fast.metal_kernel(
        name="mlx_sd_group_norm",
        input_names=["x", "weight", "bias", "eps"],
        output_names=["out"],
        source=_GROUP_NORM,
    )


_GROUP_NORM = """
    const uint thread_index = thread_position_in_threadgroup.x;
    const uint threads = threads_per_threadgroup.x;
    const uint row = threadgroup_position_in_grid.x;
    const uint C = x_shape[3], pixels = x_shape[1] * x_shape[2];
    const uint width = C / GROUPS, count = pixels * width;
    const uint first = (row % GROUPS) * width;
    const size_t at = size_t(row / GROUPS) * pixels * C + first;
    const float pilot = float(x[at]);
    float sum = 0, squares = 0;
    for (uint i = thread_index; i < count; i += threads) {
        const float v = float(x[at + size_t(i / width) * C + i % width]) - pilot;
        sum += v;
        squares += v * v;
    }
    threadgroup float2 parts[32];
    sum = simd_sum(sum);
    squares = simd_sum(squares);
    if (thread_index_in_simdgroup == 0)
        parts[simdgroup_index_in_threadgroup] = float2(sum, squares);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float2 total = float2(0);
    for (uint i = 0; i < simdgroups_per_threadgroup; i++) total += parts[i];
    const float mean = total.x / count;
    const float variance = max(total.y / count - mean * mean, 0.0f);
    const float scale = rsqrt(variance + eps[0]), centre = mean + pilot;
    for (uint i = thread_index; i < count; i += threads) {
        const uint c = i % width;
        const size_t place = at + size_t(i / width) * C + c;
        float y = (float(x[place]) - centre) * scale;
        y = y * float(weight[first + c]) + float(bias[first + c]);
        out[place] = T(SILU ? y / (1.0f + exp(-y)) : y);
    }
"""
