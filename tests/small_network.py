"""A small fixed random network as a denoiser, and noise to inject. float64 NumPy."""

import math

import numpy as np

SHAPE = (2, 3, 4)


class Network:
    """(x, sigma) → x0, of two layers over the last axis; `seed` names the weights."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.first = rng.normal(size=(SHAPE[-1] + 1, 16)) / 2
        self.last = rng.normal(size=(16, SHAPE[-1])) / 4

    def __call__(self, x, sigma: float) -> np.ndarray:
        x, size = np.asarray(x, np.float64), math.sqrt(sigma**2 + 1)
        level = np.full((*x.shape[:-1], 1), math.log(sigma) / 4)
        hidden = np.tanh(np.concatenate([x / size, level], axis=-1) @ self.first)
        return x / size**2 + sigma / size * (hidden @ self.last)


COND, UNCOND = Network(1), Network(2)


def guided(x, sigma: float, scale: float = 3.0):
    cond, uncond = COND(x, sigma), UNCOND(x, sigma)
    return uncond + scale * (cond - uncond), uncond


def start(sigma: float, flow: bool = False) -> np.ndarray:
    return np.random.default_rng(3).normal(size=SHAPE) * (1 if flow else sigma)


def noises(count: int) -> np.ndarray:
    """(count, *SHAPE) unit noise."""
    return np.random.default_rng(4).normal(size=(count, *SHAPE))
