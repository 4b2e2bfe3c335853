"""Kernels for NVIDIA GPUs that MLX compiles when they are first used."""

import hashlib
from collections.abc import Sequence
from typing import Any

import mlx.core as mx


def cuda_kernel(
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    source: str,
    header: str = "",
) -> Any:
    """As mx.fast.cuda_kernel; arguments of other types need other template arguments.

    MLX keeps what it compiled on disk, by name alone: so the name tells the source.
    """
    digest = hashlib.sha256(f"{inputs}{outputs}{header}{source}".encode()).hexdigest()
    return mx.fast.cuda_kernel(
        name=f"mlx_sd_{name}_{digest[:16]}",
        input_names=list(inputs),
        output_names=list(outputs),
        header=header,
        source=source,
    )
