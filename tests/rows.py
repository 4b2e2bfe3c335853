"""Rows of values to quantise, the same everywhere; for tests and golden files."""

import numpy as np
from blocks import random_bytes


def edge_rows() -> np.ndarray:
    """(n, 256) float32 where rounding is decided, or a scale is 0 or infinite."""
    spread = random_float16("edges", 256)
    halves = np.resize(np.arange(-127, 128), 256) / 2  # largest made 127: ties
    halves[::32] = 127
    below = np.full(256, np.nextafter(np.float32(0.5), np.float32(0)))
    below[::32] = 127
    nothing = np.copysign(0.0, random_float16("signs", 256))
    one = np.zeros(256)
    one[5::32] = -3
    rows = [
        nothing, -nothing, np.zeros(256), np.full(256, -0.0),
        np.where(spread > 0, spread, nothing), np.where(spread < 0, spread, nothing),
        np.full(256, 0.3), np.full(256, -0.3), one, -one,
        halves, -halves, below, -below, halves + 0.25, np.resize(np.arange(32), 256),
        np.resize([2, -2, 1, -1], 256), np.resize([-2, 2, 1, -1], 256),
        spread, np.abs(spread), -np.abs(spread), spread + 100, np.rint(spread * 3),
        np.full(256, 65504), np.resize([65504, -65504], 256),
    ]  # fmt: skip
    sizes = (1e-45, 1e-43, 3e-39, 4e-38, 1e-37, 1e-30, 1e-7, 1e-4, 1e3, 1e10, 1e37)
    rows += [spread / 4 * size for size in sizes]
    return np.array(rows).astype(np.float32)


def random_float16(name: str, count: int) -> np.ndarray:
    """Finite values of both signs, from 2^-5 to 4, as many in each octave."""
    raw = np.frombuffer(random_bytes(name, 2 * count), "<u2")
    octaves = ((raw >> 10 & 31) % 7 + 10) << 10
    return (raw & 0x83FF | octaves).astype("<u2").view("<f2").astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    """Kinds of weights, (64, 1024) float32 each."""
    rng = np.random.default_rng(3)
    shape = (64, 1024)
    normal = rng.standard_normal(shape)
    sizes = np.exp(rng.normal(-4, 1, (64, 1)))  # of rows
    kinds = {
        "normal": normal,
        "rows": normal * sizes,
        "heavy tails": rng.standard_t(4, shape) * sizes,
        "heavier tails": rng.standard_t(2, shape) * sizes,
        "columns": rng.laplace(size=shape) * np.exp(rng.normal(-4, 0.5, (1, 1024))),
        "outliers": np.where(rng.random(shape) < 1e-3, 50 * normal, normal),
        "shifted": 0.1 * normal + 0.2 * rng.standard_normal((64, 1)),
        "positive": np.abs(normal),
        "negative": -1 - np.abs(normal),
        "uniform": rng.uniform(-1, 1, shape),
        "sparse": np.where(rng.random(shape) < 0.05, normal, 0),
        "small": 1e-4 * normal,
    }
    float16 = {"rows", "heavy tails"}
    return {
        name: values.astype(np.float16 if name in float16 else np.float32).astype("<f4")
        for name, values in kinds.items()
    }


def rms(values: np.ndarray, expected: np.ndarray) -> float:
    error = np.asarray(values, np.float64).reshape(expected.shape) - expected
    return float(np.sqrt(np.mean(error * error)))
