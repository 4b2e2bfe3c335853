"""Variants for NVIDIA GPUs, where MLX runs a network operation by operation.

MLX lets go of what an operation read some operations later, once the GPU has come that
far: of large maps, many are held. So a convolution of them is waited for.
"""

import os
from functools import cache
from typing import Any

import mlx.core as mx

from . import reference
from .jit import cuda_kernel
from .packed import Weight, dense
from .settle import settle

_LARGE = 1 << 25  # bytes of a map; less is soon computed, and waiting would cost time
_THREADS = 512
_BLOCKS = 132 * 8  # a few for each multiprocessor of the largest GPUs
_SLABS = 132


def conv_fits(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    stride: int = 1,
    padding: int = 1,
) -> bool:
    B, H, W, _ = x.shape
    size = B * H * W // stride**2 * weight.shape[0] * x.dtype.size
    return size >= _LARGE


def conv(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    stride: int = 1,
    padding: int = 1,
) -> mx.array:
    out = reference.conv(x, weight, bias, stride, padding)
    settle(out)
    return out


def is_exact(x: mx.array, *_: object, **__: object) -> bool:
    """In float32, of which TF32 would leave ten bits."""
    return x.dtype == mx.float32 and os.environ.get("MLX_ENABLE_TF32") == "0"


def exact_conv(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None = None,
    stride: int = 1,
    padding: int = 1,
) -> mx.array:
    """A product for each of the kernel's pixels; with these alone it takes no more
    than a few maps, where cuDNN's ways without TF32 may ask for a hundred."""
    w = dense(weight, x.dtype)
    filters, high, wide, C = w.shape
    around = (padding, padding)
    x = mx.pad(x, [(0, 0), around, around, (0, 0)])
    B, H, W, _ = x.shape
    rows, columns = (H - high) // stride + 1, (W - wide) // stride + 1
    out = mx.zeros((filters,), x.dtype) if bias is None else bias.astype(x.dtype)
    for i in range(high):
        for j in range(wide):
            down = slice(i, i + (rows - 1) * stride + 1, stride)
            across = slice(j, j + (columns - 1) * stride + 1, stride)
            out = mx.addmm(out, x[:, down, across].reshape(-1, C), w[:, i, j].T)
            settle(out)
    return out.reshape(B, rows, columns, filters)


def exact_upsample_conv(
    x: mx.array, weight: Weight, bias: mx.array | None = None
) -> mx.array:
    return exact_conv(reference.enlarged(x), weight, bias)


def upsample_conv_fits(
    x: mx.array, weight: Weight, bias: mx.array | None = None
) -> bool:
    return 4 * x.size // x.shape[-1] * weight.shape[0] * x.dtype.size >= _LARGE


def upsample_conv(
    x: mx.array, weight: Weight, bias: mx.array | None = None
) -> mx.array:
    out = reference.upsample_conv(x, weight, bias)
    settle(out)
    return out


def group_norm_fits(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    groups: int,
    eps: float,
    silu: bool = False,
) -> bool:
    """A thread reads eight channels at once, and a block all of a pixel."""
    return x.ndim == 4 and x.size > 0 and x.shape[-1] % 8 == 0 and x.shape[-1] <= 4096


def group_norm(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    groups: int,
    eps: float,
    silu: bool = False,
) -> mx.array:
    """One pass for the sums and one for the result, with no map between them."""
    B, H, W, C = x.shape
    lanes = _THREADS // (C // 8)  # pixels at a time
    slabs = max(1, min(_SLABS, H * W // (4 * lanes)))
    blocks = max(1, min(_BLOCKS // B, H * W // (2 * lanes)))
    sums, apply = _norm_kernels(eps)
    template: list[tuple[str, Any]] = [("T", x.dtype), ("GROUPS", groups)]
    (parts,) = sums(
        inputs=[x],
        template=template,
        grid=(_THREADS * slabs, B, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[(B, slabs, groups, 2)],
        output_dtypes=[mx.float32],
    )
    types = [("W", weight.dtype), ("V", bias.dtype), ("SILU", silu)]
    (out,) = apply(
        inputs=[x, weight, bias, parts],
        template=[*template, *types],
        grid=(_THREADS * blocks, B, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


@cache
def _norm_kernels(eps: float) -> tuple[Any, Any]:
    header = _EIGHT + f"#define EPS {eps!r}f\n"
    return (
        cuda_kernel("group_sums", ["x"], ["sums"], _PLACE + _SUMS, header),
        cuda_kernel(
            "group_apply",
            ["x", "weight", "bias", "sums"],
            ["out"],
            _PLACE + _APPLY,
            header,
        ),
    )


_EIGHT = "template <class T> struct alignas(16) Eight { T v[8]; };\n"

_PLACE = """
    const int pixels = x_shape[1] * x_shape[2], C = x_shape[3], width = C / GROUPS;
    const int columns = C / 8, lanes = blockDim.x / columns;
    const int lane = threadIdx.x / columns, c = threadIdx.x % columns * 8;
    const int image = blockIdx.y;
    x += (long long)image * pixels * C;
"""

# Sums are of differences from a group's first value: small numbers lose fewer digits.
_SUMS = """
    __shared__ float2 part[8 * 512];
    const int slabs = gridDim.x, per = (pixels + slabs - 1) / slabs;
    const int end = min(pixels, int(blockIdx.x + 1) * per);
    if (lane < lanes) {
        float first[8], s[8] = {}, q[8] = {};
        for (int e = 0; e < 8; e++) first[e] = float(x[(c + e) / width * width]);
        #pragma unroll 4
        for (int p = blockIdx.x * per + lane; p < end; p += lanes) {
            const T* at = x + (long long)p * C + c;
            const auto in = *reinterpret_cast<const Eight<T>*>(at);
            #pragma unroll
            for (int e = 0; e < 8; e++) {
                const float y = float(in.v[e]) - first[e];
                s[e] += y;
                q[e] += y * y;
            }
        }
        for (int e = 0; e < 8; e++) part[lane * C + c + e] = {s[e], q[e]};
    }
    __syncthreads();
    for (int i = threadIdx.x; i < C; i += blockDim.x)
        for (int l = 1; l < lanes; l++) {
            part[i].x += part[l * C + i].x;
            part[i].y += part[l * C + i].y;
        }
    __syncthreads();
    for (int g = threadIdx.x; g < GROUPS; g += blockDim.x) {
        float2 sum = {0, 0};
        for (int i = g * width; i < (g + 1) * width; i++) {
            sum.x += part[i].x;
            sum.y += part[i].y;
        }
        auto* to = reinterpret_cast<float2*>(sums);
        to[(image * slabs + blockIdx.x) * GROUPS + g] = sum;
    }
"""

_APPLY = """
    __shared__ float2 stats[GROUPS];  // mean, 1/deviation
    const int slabs = sums_shape[1];
    for (int g = threadIdx.x / 32; g < GROUPS; g += blockDim.x / 32) {
        float2 sum = {0, 0};
        for (int i = threadIdx.x % 32; i < slabs; i += 32) {
            const auto* at = reinterpret_cast<const float2*>(sums);
            const float2 more = at[(image * slabs + i) * GROUPS + g];
            sum.x += more.x;
            sum.y += more.y;
        }
        for (int i = 16; i; i /= 2) {
            sum.x += __shfl_xor_sync(~0u, sum.x, i);
            sum.y += __shfl_xor_sync(~0u, sum.y, i);
        }
        if (threadIdx.x % 32 == 0) {
            const float n = float(pixels) * width, mean = sum.x / n;
            const float variance = fmaxf(sum.y / n - mean * mean, 0.f);
            stats[g] = {mean + float(x[g * width]), rsqrtf(variance + EPS)};
        }
    }
    __syncthreads();
    if (lane >= lanes) return;
    float scale[8], move[8];
    for (int e = 0; e < 8; e++) {
        const float2 s = stats[(c + e) / width];
        scale[e] = s.y * float(weight[c + e]);
        move[e] = float(bias[c + e]) - s.x * scale[e];
    }
    out += (long long)image * pixels * C;
    for (int p = blockIdx.x * lanes + lane; p < pixels; p += gridDim.x * lanes) {
        auto y = *reinterpret_cast<const Eight<T>*>(x + (long long)p * C + c);
        #pragma unroll
        for (int e = 0; e < 8; e++) {
            const float f = float(y.v[e]) * scale[e] + move[e];
            y.v[e] = T(SILU ? f / (1 + expf(-f)) : f);
        }
        *reinterpret_cast<Eight<T>*>(out + (long long)p * C + c) = y;
    }
"""
