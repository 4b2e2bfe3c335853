"""Between MLX's arrays and those of a recording."""

import math
from functools import cache

import mlx.core as mx

_THREADS = 256


@cache
def _kernel(name: str, inputs: tuple[str, ...], body: str):
    index = "const size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;"
    return mx.fast.cuda_kernel(
        name=f"mlx_sd_{name}",
        input_names=inputs,
        output_names=["out"],
        source=f"{index} if (i < N) {{ {body} }}",
    )


@cache
def _place(address: int) -> mx.array:
    return mx.array([address], dtype=mx.uint64)


def put(values: list[tuple[mx.array, int]]) -> None:
    """Copy arrays to addresses; done on return."""
    kernel = _kernel("put", ("x", "at"), "((T*)at[0])[i] = x[i]; if (!i) out[0] = 0;")
    done = []
    for array, address in values:
        (out,) = kernel(
            inputs=[array, _place(address)],
            template=[("T", array.dtype), ("N", array.size)],
            output_shapes=[(1,)],
            output_dtypes=[mx.uint8],
            grid=(-(-array.size // _THREADS) * _THREADS, 1, 1),
            threadgroup=(_THREADS, 1, 1),
        )
        done.append(out)
    mx.eval(done)


def get(address: int, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """A copy of what lies at an address; done on return."""
    size = math.prod(shape)
    (out,) = _kernel("get", ("at",), "out[i] = ((const T*)at[0])[i];")(
        inputs=[_place(address)],
        template=[("T", dtype), ("N", size)],
        output_shapes=[shape],
        output_dtypes=[dtype],
        grid=(-(-size // _THREADS) * _THREADS, 1, 1),
        threadgroup=(_THREADS, 1, 1),
    )
    mx.eval(out)
    return out
