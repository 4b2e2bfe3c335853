"""What memory work takes of MLX."""

from collections.abc import Callable

import mlx.core as mx


def taken(work: Callable[[], object]) -> int:
    """Bytes of arrays at its peak, beyond those that there were before.

    The least of three times: on a GPU, MLX lets go of what is no longer needed in a
    thread of its own, which comes late where other processes keep the machine busy.
    """
    found = []
    for _ in range(3):
        mx.synchronize()
        mx.clear_cache()  # which on CUDA serves for half as much
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        work()
        found.append(mx.get_peak_memory() - before)
    return min(found)
