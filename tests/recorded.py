"""Operations of recordings, done on arrays; and how they are compared."""

import mlx.core as mx
import numpy as np

from mlx_sd.cuda.recording import Recording

TYPES = [mx.float16, mx.bfloat16]
# Rounding to 11 and 8 bits once or twice, on sums that are float32.
BOUNDS = {mx.float16: 1e-3, mx.bfloat16: 6e-3}


def normal(*shape: int, dtype: mx.Dtype, scale: float = 1.0) -> mx.array:
    values = np.random.default_rng(sum(shape)).standard_normal(shape) * scale
    return mx.array(values.astype(np.float32)).astype(dtype)


def wide(*arrays):
    return [a.astype(mx.float32) for a in arrays]


def close(out: mx.array, expected: mx.array, bound: float) -> None:
    out, expected = wide(out, expected)
    assert mx.isfinite(out).all()
    error = mx.linalg.norm(out - expected) / mx.linalg.norm(expected)
    assert error.item() <= bound


def recorded(dtype, inputs, weights, work):
    """What `work` makes of arrays by name, and of weights."""
    mx.eval(list(inputs.values()), weights)

    def all_of_it(r):
        named = {name: r.array(*array.shape) for name, array in inputs.items()}
        return {**named, "out": work(r, **named)}

    recording = Recording(dtype, weights, all_of_it)
    other = {name: mx.zeros_like(array) for name, array in inputs.items()}
    for given in (inputs, other, inputs):  # nothing of another time may matter
        recording.run(**given)
        out = recording.out()
    mx.eval(out)
    return out
