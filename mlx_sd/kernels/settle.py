"""Waiting, for memory's sake."""

import mlx.core as mx


def settle(*arrays: mx.array) -> None:
    """Wait until arrays are computed, and what they were computed from is let go of.

    mx.eval waits for the former alone. On CUDA, MLX lets go in a thread of its own, on
    a busy machine some operations later: several times the memory is held by then.
    """
    mx.eval(arrays)
    mx.synchronize()
