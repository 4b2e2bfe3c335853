"""Between MLX's arrays and those of a recording, in MLX's stream.

The recording has a stream of its own. Each side waits on the device for the other's
word: nobody on the CPU waits for either. Of the two words, which are numbers that lie
beside each other, 1 in the first says that arrays are there, in the second that the
work on them is done; who hears it makes it 0.
"""

import math
from functools import cache

import mlx.core as mx

from ..kernels.jit import cuda_kernel

_THREADS = 256
_NOTHING = (16,)  # bytes that tell only order; 8 and fewer MLX shares with the CPU


@cache
def _kernel(name: str, inputs: tuple[str, ...], body: str):
    index = "const size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;"
    return cuda_kernel(name, inputs, ["out"], f"{index} if (i < N) {{ {body} }}")


@cache
def _place(address: int) -> mx.array:
    # Computed, since what is made from Python's numbers lies where a CPU reaches it.
    place = mx.array([address, 0], dtype=mx.uint64) + mx.array(0, dtype=mx.uint64)
    mx.eval(place)
    return place


def put(values: list[tuple[mx.array, int]], words: int) -> None:
    """Begin to copy arrays to addresses, and then to say so.

    Args:
        words: their address.
    """
    kernel = _kernel("put", ("x", "at"), "((T*)at[0])[i] = x[i]; if (!i) out[0] = 0;")
    done = [
        kernel(
            inputs=[array, _place(address)],
            template=[("T", array.dtype), ("N", array.size)],
            output_shapes=[_NOTHING],
            output_dtypes=[mx.uint8],
            grid=(-(-array.size // _THREADS) * _THREADS, 1, 1),
            threadgroup=(_THREADS, 1, 1),
        )[0]
        for array, address in values
    ]
    names = tuple(f"done{i}" for i in range(len(done)))
    # The second word is still 1 where the result of the work before was never wanted.
    say = "unsigned* word = (unsigned*)at[0]; atomicExch(word + 1, 0u); "
    say += "__threadfence(); atomicExch(word, 1u); out[0] = 0;"
    inputs = [*done, _place(words)]
    mx.async_eval(_alone(f"say{len(done)}", (*names, "at"), say, inputs))


def get(address: int, shape: tuple[int, ...], dtype: mx.Dtype, words: int) -> mx.array:
    """A copy of what lies at an address, begun once the other side has said so."""
    heard = "unsigned* word = (unsigned*)at[0] + 1; "
    heard += "while (atomicCAS(word, 1u, 0u) != 1u) __nanosleep(500);"
    body = f"{heard} __threadfence(); out[0] = 0;"
    turn = _alone("hear", ("at",), body, [_place(words)])
    size = math.prod(shape)
    (out,) = _kernel("get", ("at", "turn"), "out[i] = ((const T*)at[0])[i];")(
        inputs=[_place(address), turn],
        template=[("T", dtype), ("N", size)],
        output_shapes=[shape],
        output_dtypes=[dtype],
        grid=(-(-size // _THREADS) * _THREADS, 1, 1),
        threadgroup=(_THREADS, 1, 1),
    )
    mx.async_eval(out)  # now: the next run writes to the same place
    return out


def _alone(
    name: str, names: tuple[str, ...], body: str, inputs: list[mx.array]
) -> mx.array:
    """What one thread does, after what its inputs come from."""
    (out,) = _kernel(name, names, body)(
        inputs=inputs,
        template=[("N", 1)],
        output_shapes=[_NOTHING],
        output_dtypes=[mx.uint8],
        grid=(1, 1, 1),
        threadgroup=(1, 1, 1),
    )
    return out
