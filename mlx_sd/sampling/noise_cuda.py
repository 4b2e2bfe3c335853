"""Philox's normal numbers on an NVIDIA GPU: noise.py's, to the bit.

A latent's take a CPU 3 ms, half a step of a recorded UNet. Every operation here is
rounded as the one of NumPy that it repeats, so no number differs.
"""

from functools import cache
from typing import Any

import mlx.core as mx

from ..kernels.jit import cuda_kernel
from .elementary import COS, LN2, LOG, QUARTER_PI, SIN, SQRT_HALF

_THREADS = 256


def here() -> bool:
    """Whether MLX computes on an NVIDIA GPU."""
    return mx.cuda.is_available() and mx.default_device().type == mx.DeviceType.gpu


def normal(key: int, call: int, count: int) -> mx.array:
    """(count,) float32.

    Args:
        key: of 64 bits.
    """
    words = [key & 0xFFFFFFFF, key >> 32, call, count]
    (out,) = _kernel()(
        inputs=[mx.array(words, dtype=mx.uint32)],
        output_shapes=[(count,)],
        output_dtypes=[mx.float32],
        grid=(-(-count // _THREADS) * _THREADS, 1, 1),
        threadgroup=(_THREADS, 1, 1),
    )
    return out


@cache
def _kernel() -> Any:
    return cuda_kernel("philox_normal", ["words"], ["out"], _NORMAL, _header())


def _header() -> str:
    tables = {"LOG": LOG, "COS": COS, "SIN": SIN, "QUARTER_PI": QUARTER_PI, "LN2": LN2}
    lines = [
        f"__device__ constexpr double {name}[] = {{{', '.join(map(repr, values))}}};"
        for name, values in tables.items()
    ]
    # Python's floats are float64; NumPy's are rounded to float32 before they are used.
    return "\n".join([*lines, f"#define SQRT_HALF {float(SQRT_HALF)!r}f", _FUNCTIONS])


_FUNCTIONS = """
// elementary.fma: by way of float64, where the product is exact.
__device__ float by_double(float a, float b, float c) {
    return __double2float_rn(__dadd_rn(__dmul_rn(a, b), c));
}

template <int N>
__device__ float polynomial(float x, const double (&coefficients)[N]) {
    float y = coefficients[0];
    for (int i = 1; i < N; i++) y = by_double(y, x, float(coefficients[i]));
    return y;
}

__device__ float logarithm(float x) {
    int exponent;
    const float m = frexpf(x, &exponent);
    const bool low = m < SQRT_HALF;
    const float e = exponent - int(low), less = __fsub_rn(m, 1.0f);
    x = low ? __fadd_rn(less, m) : less;
    const float z = __fmul_rn(x, x);
    float y = __fmul_rn(polynomial(x, LOG), x);
    y = by_double(y, z, __fmul_rn(e, float(LN2[0])));
    y = by_double(z, -0.5f, y);
    return by_double(e, float(LN2[1]), __fadd_rn(x, y));
}

__device__ float sine(float x) {
    const int octant = (int(__fmul_rn(x, 1.2732395447351628f)) + 1) & ~1;
    for (double part : QUARTER_PI) x = by_double(octant, -float(part), x);
    const float z = __fmul_rn(x, x);
    float y;
    if (octant & 2) {
        y = __fmul_rn(polynomial(z, COS), z);
        y = __fadd_rn(by_double(y, z, __fmul_rn(z, -0.5f)), 1.0f);
    } else {
        y = by_double(__fmul_rn(polynomial(z, SIN), z), x, x);
    }
    return octant & 4 ? -y : y;
}
"""

_NORMAL = """
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= words[3]) return;
    uint32_t a = words[2], b = 0, c = i, d = 0, k = words[0], l = words[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t p = 0xD2511F53ull * a, q = 0xCD9E8D57ull * c;
        a = uint32_t(q >> 32) ^ b ^ k;
        b = uint32_t(q);
        c = uint32_t(p >> 32) ^ d ^ l;
        d = uint32_t(p);
        k += 0x9E3779B9u;
        l += 0xBB67AE85u;
    }
    const float scale = 2.3283064e-10f, turn = __fmul_rn(scale, 6.2831855f);
    const float u = __fadd_rn(__fmul_rn(__uint2float_rn(a), scale), scale / 2);
    const float v = __fadd_rn(__fmul_rn(__uint2float_rn(b), turn), turn / 2);
    const float radius = __fsqrt_rn(__fmul_rn(-2.0f, logarithm(u)));
    out[i] = __fmul_rn(radius, sine(v));
"""
