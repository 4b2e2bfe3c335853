"""Encoders of the K types: blocks of 256 values in sub-blocks of 16 or 32.

A value is scale·code - minimum. Scale and minimum of a sub-block are integers of a few
bits times a float16 unit, one for the block's scales and one for its minima; Q3_K and
Q6_K have no minimum. The squared error is made small, every value counting the same:

1. Each sub-block is rounded to several grids. To the codes that this gives, least
   squares fit a scale; the grid stays whose fit is closest to the values.
2. The scales are rounded to integers. The minimum that suits each rounded scale is
   rounded in turn. Several units are tried for both.
3. Each value takes the code next to it.

Arrays are (k, s, n), s values in k sub-blocks of n blocks, or (k, n).

Source: the formats are ggml's (ggml-quants.c, MIT), and so is the idea of trying grids;
ggml counts large values more, and fits all minima before it rounds the scales.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from .fields import Encode, joined

_INSETS = np.linspace(-0.5, 0.5, 4, dtype=np.float32)  # of both ends, in codes
_STRETCHES = np.linspace(-0.9, 0.9, 8, dtype=np.float32)  # of the farther end, likewise
_EXTRAS = range(-4, 5)  # how many more integers than there are a unit is tried for
_LEAST = np.finfo(np.float16).smallest_subnormal  # a unit of 0 would lose the block

Fields = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Kind:
    values: int  # in a sub-block
    codes: tuple[int, int]  # lowest and highest
    integers: tuple[int, int]  # that scales and minima can be
    minimum: bool  # whether there is one to subtract
    join: Callable[..., Fields]  # of codes counted from 0, scales, minima; all uint8


class _Fit(NamedTuple):
    """What the codes of sub-blocks can do at best; squares are means over values."""

    gain: np.ndarray  # how far the squared error is below that without any code
    scale: np.ndarray
    level: np.ndarray  # mean code; 0 where there is no minimum to make up for it
    weight: np.ndarray  # squared error that a scale off by one adds


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros_like(b), where=b != 0)


def _peak(x: np.ndarray, axis: int) -> np.ndarray:
    """The value of largest magnitude."""
    return np.take_along_axis(x, np.abs(x).argmax(axis, keepdims=True), axis)


def _grids(x: np.ndarray, mean: np.ndarray, kind: _Kind) -> Iterator[tuple]:
    """(slope, offset): codes are x·slope + offset, rounded."""
    bottom, top = kind.codes
    if kind.minimum:  # from 0, or from the smallest value if that is below
        low = np.minimum(x.min(axis=1), -mean)[:, None]
        inverse = _ratio(np.float32(1), x.max(axis=1)[:, None] - low)
        for first, last in product(_INSETS, _INSETS):
            slope = inverse * (top - first - last)
            yield slope, first - low * slope
    else:  # the farthest value goes to the side that has a code more
        inverse = _ratio(np.float32(1), _peak(x, 1))
        for stretch in _STRETCHES:
            yield inverse * (bottom - stretch), np.float32(0)


def _round(steps: np.ndarray, bounds: tuple[int, int]) -> np.ndarray:
    np.rint(steps, out=steps)
    return np.clip(steps, *bounds, out=steps)


def _fit(codes: np.ndarray, x: np.ndarray, mean: np.ndarray, kind: _Kind) -> _Fit:
    """Least squares; x is the values less their `mean`, which is 0 without minima."""
    square = np.einsum("ksn,ksn->kn", codes, codes) / np.float32(kind.values)
    moment = np.einsum("ksn,ksn->kn", codes, x) / np.float32(kind.values)
    if not kind.minimum:
        scale = _ratio(moment, square)
        return _Fit(scale * moment, scale, mean, square)
    level = codes.sum(axis=1) / np.float32(kind.values)
    spread = square - level * level
    scale = _ratio(moment, spread)
    negative = scale * level < mean  # a minimum, which cannot be stored: it is 0 then
    whole = moment + level * mean
    alone = _ratio(whole, square)
    return _Fit(
        np.where(negative, alone * whole - mean * mean, scale * moment),
        np.where(negative, alone, scale),
        level,
        np.where(negative, square, spread),
    )


def _search(x: np.ndarray, mean: np.ndarray, kind: _Kind) -> _Fit:
    best = _Fit(*np.full((4, *mean.shape), -np.inf, np.float32))
    steps = np.empty_like(x)
    for slope, offset in _grids(x, mean, kind):
        np.multiply(x, slope, out=steps)
        steps += offset
        fit = _fit(_round(steps, kind.codes), x, mean, kind)
        better = fit.gain > best.gain
        best = _Fit(*(np.where(better, *pair) for pair in zip(fit, best, strict=True)))
    return best


def _integers(
    wanted: np.ndarray, weight: np.ndarray, bounds: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(unit (n,), integers (k, n)): their products have the least weighted error."""
    peak = _peak(wanted, 0)[0]
    least = np.full_like(peak, np.inf)
    unit, integers = np.zeros_like(peak), np.zeros_like(wanted)
    for extra in _EXTRAS:
        new = (peak / (max(bounds, key=abs) + extra)).astype(np.float16)
        new[(new == 0) & (peak != 0)] = _LEAST
        inverse = _ratio(np.float32(1), new.astype(np.float32))
        rounded = _round(wanted * inverse, bounds)
        weighted = weight * rounded
        new = _ratio((weighted * wanted).sum(axis=0), (weighted * rounded).sum(axis=0))
        new = new.astype(np.float16).astype(np.float32)
        error = (weight * (wanted - new * rounded) ** 2).sum(axis=0)
        better = error < least
        least = np.where(better, error, least)
        unit = np.where(better, new, unit)
        integers = np.where(better, rounded, integers)
    return unit, integers


def _encoder(kind: _Kind) -> Encode:
    def encode(blocks: np.ndarray) -> Fields:
        x = np.array(blocks.T, order="C").reshape(-1, kind.values, len(blocks))
        mean = x.mean(axis=1) if kind.minimum else np.zeros_like(x[:, 0])
        x -= mean[:, None]  # so that sums of products keep their digits
        fit = _search(x, mean, kind)
        d, scales = _integers(fit.scale, fit.weight, kind.integers)
        if kind.minimum:
            wanted = np.maximum(d * scales * fit.level - mean, 0)
            m, minima = _integers(wanted, np.float32(1), kind.integers)
        else:  # rounded to 0 it would lose its values; too coarse, it keeps some
            scales += np.sign(d * fit.scale) * (scales == 0)
            m, minima = np.float32(0), np.zeros_like(mean)
        scale = d * scales
        x += (mean + m * minima)[:, None]
        x *= _ratio(np.float32(1), scale)[:, None]
        codes = (_round(x, kind.codes) - kind.codes[0]).astype(np.uint8)
        integers = np.stack([scales, minima]).astype(np.int8).view(np.uint8)
        fields = kind.join(codes.reshape(-1, len(blocks)), *integers)
        return fields | ({"d": d, "m": m} if kind.minimum else {"d": d})

    return encode


def _join_2(codes: np.ndarray, scales: np.ndarray, minima: np.ndarray) -> Fields:
    return {"scales": scales | minima << 4, "q": joined(codes, 2, run=32)}


def _join_3(codes: np.ndarray, scales: np.ndarray, minima: np.ndarray) -> Fields:
    scales = scales + 32  # from -32, bytes wrap around
    low, high = joined(scales & 15, 4, run=8), joined(scales >> 4, 2, run=4)
    return {
        "scales": np.concatenate([low, high]),
        "q": joined(codes & 3, 2, run=32),
        "high": joined(codes >> 2, 1, run=32),
    }


def _join_4(codes: np.ndarray, scales: np.ndarray, minima: np.ndarray) -> Fields:
    """The first four scales and minima are whole but for two bits of the last four."""
    pair = np.stack([scales, minima])
    first, last = pair[:, :4], pair[:, 4:]
    whole = first | last >> 4 << 6
    low = last[0] & 15 | last[1] << 4
    return {"scales": np.concatenate([*whole, low]), "q": joined(codes, 4, run=32)}


def _join_5(codes: np.ndarray, scales: np.ndarray, minima: np.ndarray) -> Fields:
    high = joined(codes >> 4, 1, run=32)
    return _join_4(codes & 15, scales, minima) | {"high": high}


def _join_6(codes: np.ndarray, scales: np.ndarray, minima: np.ndarray) -> Fields:
    return {
        "scales": scales,
        "q": joined(codes & 15, 4, run=64),
        "high": joined(codes >> 4, 2, run=32),
    }


_KINDS = {
    "Q2_K": _Kind(16, (0, 3), (0, 15), True, _join_2),
    "Q3_K": _Kind(16, (-4, 3), (-32, 31), False, _join_3),
    "Q4_K": _Kind(32, (0, 15), (0, 63), True, _join_4),
    "Q5_K": _Kind(32, (0, 31), (0, 63), True, _join_5),
    "Q6_K": _Kind(16, (-32, 31), (-128, 127), False, _join_6),
}

K_ENCODERS: dict[str, Encode] = {name: _encoder(kind) for name, kind in _KINDS.items()}
