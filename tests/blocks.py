"""Bytes for ggml's blocks, and digests of their values; for tests and golden files."""

import hashlib

import numpy as np


def random_bytes(name: str, count: int) -> np.ndarray:
    """The same on every machine and with every version."""
    return np.frombuffer(hashlib.shake_128(name.encode()).digest(count), np.uint8)


def digest(values: np.ndarray) -> str:
    """Of float32 values, whatever the bits of NaN are on this machine."""
    values = np.where(np.isnan(values), np.float32(np.nan), values).astype("<f4")
    return hashlib.sha256(values.tobytes()).hexdigest()
