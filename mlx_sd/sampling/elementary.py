"""Logarithm, sine and cosine of float32 arrays, to the same bits on every machine.

NumPy's own differ in their last bit between processors. These are the polynomials of
the Cephes library (S. L. Moshier, 1989: logf.c, sinf.c), evaluated with fused
multiply-adds, which is what torch does to make normal numbers on an AVX2 processor.
"""

import numpy as np

SQRT_HALF = np.float32(0.70710678)
LN2 = (-2.12194440e-4, 0.693359375)  # in two parts, the second exact in few bits
LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1),
    *(1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1),
    3.3333331174e-1,
)
QUARTER_PI = (0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)
COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)


def fma(a: np.ndarray, b: np.ndarray | float, c: np.ndarray | float) -> np.ndarray:
    """a·b + c in float32, rounded once.

    By way of float64, where the product is exact and the sum rounded. That is once too
    often, but was seen to change no `log(1 - u)` and no `sincos(2π·u)` of the 2^24
    multiples u of 2^-24, which is what torch makes normal numbers of.
    """
    wide = np.multiply(a, np.float32(b), dtype=np.float64)
    wide += np.float32(c)
    return wide.astype(np.float32)


def polynomial(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    """By Horner's rule, from the highest power down."""
    y = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        y = fma(y, x, c)
    return y


def log(x: np.ndarray) -> np.ndarray:
    """Natural logarithm of float32 numbers above 0 that are not denormal."""
    mantissa, exponent = np.frexp(x)  # mantissa from 0.5 to below 1
    low = mantissa < SQRT_HALF
    e = (exponent - low).astype(np.float32)
    x = np.where(low, mantissa - np.float32(1) + mantissa, mantissa - np.float32(1))
    z = x * x
    y = fma(polynomial(x, LOG) * x, z, e * np.float32(LN2[0]))
    y = fma(z, -0.5, y)
    return fma(e, LN2[1], x + y)


def sincos(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of float32 numbers from 0 to some thousands."""
    # The nearest even multiple of π/4 is taken off; which one says what is left to do.
    octant = (x * np.float32(4 / np.pi)).astype(np.int32) + 1 & ~1
    y = octant.astype(np.float32)
    for part in QUARTER_PI:
        x = fma(y, -part, x)
    z = x * x
    cos = fma(polynomial(z, COS) * z, z, z * np.float32(-0.5)) + np.float32(1)
    sin = fma(polynomial(z, SIN) * z, x, x)
    swap = octant & 2 != 0
    sine, cosine = np.where(swap, cos, sin), np.where(swap, sin, cos)
    return (
        np.where(octant & 4, -sine, sine),
        np.where(octant - 2 & 4, cosine, -cosine),
    )
