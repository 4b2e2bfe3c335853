"""The values that ggml's blocks stand for, equal to the gguf package's bit for bit.

A decoder takes n blocks and returns their float32 values, in order, in any shape. The
products of scales are exact in float32, so the last operation alone rounds.

Source: the dequantize_row_* functions of ggml-quants.c (MIT).
"""

from collections.abc import Callable

import numpy as np

from .unpack import (
    bits,
    five_bits,
    five_bits_k,
    interleaved,
    k_scales,
    single_bits,
    times,
)


def _q1_0(blocks: np.ndarray) -> np.ndarray:
    return times(blocks["d"], _signed(2 * single_bits(blocks["q"]), 1))


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    return times(blocks["d"], _signed(bits(blocks["q"], 4), 8))


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    return _with_offset(blocks, bits(blocks["q"], 4))


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    return times(blocks["d"], _signed(five_bits(blocks), 16))


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    return _with_offset(blocks, five_bits(blocks))


def _q8(blocks: np.ndarray) -> np.ndarray:
    return times(blocks["d"], blocks["q"])


def _q2_k(blocks: np.ndarray) -> np.ndarray:
    scales, q = blocks["scales"], bits(blocks["q"], 2).reshape(-1, 16, 16)
    values = times(times(blocks["d"], scales & 15), q)
    values -= times(blocks["m"], scales >> 4)[..., None]
    return values


def _q3_k(blocks: np.ndarray) -> np.ndarray:
    low, high = bits(blocks["scales"][:, :8], 4), bits(blocks["scales"][:, 8:], 2)
    scales = _signed(low.reshape(-1, 16) | high.reshape(-1, 16) << 4, 32)
    q = bits(blocks["q"], 2).reshape(-1, 256)
    q |= bits(blocks["high"], 1).reshape(-1, 256) << 2
    return times(times(blocks["d"], scales), _signed(q, 4).reshape(-1, 16, 16))


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    return _with_scaled_offsets(blocks, bits(blocks["q"], 4).reshape(-1, 8, 32))


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    return _with_scaled_offsets(blocks, five_bits_k(blocks))


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    q = bits(blocks["q"], 4).reshape(-1, 256)
    q |= bits(blocks["high"], 2).reshape(-1, 256) << 4
    scales = times(blocks["d"], blocks["scales"])
    return times(scales, _signed(q, 32).reshape(-1, 16, 16))


def _tq1_0(blocks: np.ndarray) -> np.ndarray:
    """Five digits in base 3 to a byte, as a fraction of 256; the first counts most."""
    parts = (blocks["q"][:, :32], 5), (blocks["q"][:, 32:], 5), (blocks["rest"], 4)
    shifted = [
        (part[:, None] * np.uint8(3) ** np.arange(digits, dtype=np.uint8)[:, None])
        for part, digits in parts
    ]
    x = np.hstack([part.reshape(len(part), -1) for part in shifted])
    digit = (x > 85).view(np.int8) + (x > 170).view(np.int8)  # 3 * x >> 8
    return times(blocks["d"], digit - np.int8(1))


def _tq2_0(blocks: np.ndarray) -> np.ndarray:
    return times(blocks["d"], _signed(bits(blocks["q"], 2), 1))


_IQ4 = np.array(
    (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.int8
)


def _iq4_nl(blocks: np.ndarray) -> np.ndarray:
    return times(blocks["d"], _IQ4[bits(blocks["q"], 4)])


def _iq4_xs(blocks: np.ndarray) -> np.ndarray:
    high = blocks["scales_high"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = interleaved(blocks["scales"], 4) | high.astype(np.uint8) << 4
    return times(times(blocks["d"], _signed(scales, 32)), _IQ4[bits(blocks["q"], 4)])


# Twice the values of e2m1; the scales of the types that use them are halved instead.
_FP4 = np.array((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), np.int8)


def _half_e8m0() -> np.ndarray:
    """(256,) 2^(byte - 128), the two smallest of which are subnormal."""
    return np.ldexp(np.float32(1), np.arange(256) - 128)


def _half_ue4m3() -> np.ndarray:
    """(256,) An unsigned e4m3, whose top bit is ignored; 0x7F, its NaN, is 0."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    whole = np.where(exponent == 0, mantissa, mantissa + 8).astype(np.float32)
    values = np.ldexp(whole, np.maximum(exponent, 1) - 7 - 3 - 1)
    values[0x7F] = 0
    return values


_HALF_E8M0, _HALF_UE4M3 = _half_e8m0(), _half_ue4m3()


def _mxfp4(blocks: np.ndarray) -> np.ndarray:
    return times(_HALF_E8M0[blocks["exponent"]], _FP4[bits(blocks["q"], 4)])


def _nvfp4(blocks: np.ndarray) -> np.ndarray:
    return times(_HALF_UE4M3[blocks["scales"]], _FP4[bits(blocks["q"], 4)])


def _signed(q: np.ndarray, zero: int) -> np.ndarray:
    """Small unsigned integers less the one that stands for 0."""
    return q.view(np.int8) - np.int8(zero)


def _with_offset(blocks: np.ndarray, q: np.ndarray) -> np.ndarray:
    values = times(blocks["d"], q.reshape(len(q), -1))
    values += blocks["m"].astype(np.float32)[:, None]
    return values


def _with_scaled_offsets(blocks: np.ndarray, q: np.ndarray) -> np.ndarray:
    scales, offsets = k_scales(blocks)
    values = times(scales, q)
    values -= offsets[..., None]
    return values


DECODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Q1_0": _q1_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "Q8_K": _q8,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "TQ1_0": _tq1_0,
    "TQ2_0": _tq2_0,
    "MXFP4": _mxfp4,
    "NVFP4": _nvfp4,
}
