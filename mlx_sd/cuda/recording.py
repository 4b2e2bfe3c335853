"""A network's work recorded, once, to be repeated as one CUDA graph.

MLX needs 10 to 70 µs of a CPU's time for each operation that it starts, and a network
has hundreds; a graph needs them once. All it touches stays in place: weights, which
are MLX's arrays, and an arena for inputs, outputs and what is computed between.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import mlx.core as mx

from . import transfer
from .arrays import Array, addresses
from .driver import CudaError, Graph, Stream, when_gone
from .recorder import Recorder

_LONG = 0.25  # seconds; a screen's GPU is reset after a few


class Recording:
    """A network's work in a graph, and its memory."""

    def __init__(
        self,
        dtype: mx.Dtype,
        parameters: Sequence[mx.array],
        work: Callable[[Recorder], dict[str, Array]],
        stream: Stream | None = None,
        memory: Sequence[mx.array] | None = None,
    ):
        """
        Args:
            parameters: evaluated arrays that the work refers to.
            work: the operations; returns the arrays that are seen from outside, "out"
                among them.
            stream: of recordings that use each other's arrays; None: its own.
            memory: arrays whose memory the parameters are in; None: they themselves.
        """
        self._stream, self._dtype = stream or Stream(), dtype
        when_gone(self, _finish, self._stream)
        self._parameters = list(parameters)
        self._seen = self._parameters if memory is None else list(memory)
        self._places = addresses(self._seen)
        found = addresses(self._parameters)
        weights = {id(a): at for a, at in zip(self._parameters, found, strict=True)}
        recorder = Recorder(dtype, weights)
        self._unheard, self._slow = False, True  # as long as it is not known

        def words() -> Array:  # see transfer.py and gated.cu; first, so never moved
            self._words = recorder.array(4, bytes=4)
            recorder.taken = self._words.at + 8
            return self._words

        words()
        work(recorder)
        size = 0
        while size < recorder.arena.top:  # a library may ask for more than we thought
            size = recorder.arena.top
            # Of eights, as MLX counts an array's elements in 31 bits.
            self._memory = mx.zeros((size // 8,), dtype=mx.uint64)
            mx.eval(self._memory)
            (base,) = addresses([self._memory])
            # Done once, so that the libraries load their kernels before the capture.
            recorder.record(base, self._stream)
            words()
            work(recorder)
            self._stream.synchronize()
        self._stream.begin_capture()
        try:
            recorder.record(base, self._stream)
            at = words().at
            recorder.signal("hear", at)
            self.arrays = work(recorder)
            recorder.signal("say", at + 4)
        finally:
            self._graph: Graph = self._stream.end_capture()

    @property
    def bytes(self) -> int:
        return self._memory.nbytes

    def stale(self) -> bool:
        """Whether a weight has been moved, as MLX does when it is read from a CPU."""
        return addresses(self._seen) != self._places

    def run(self, **inputs: mx.array) -> None:
        """Begin the work on arrays by name; those not given stay as they are."""
        if self._unheard:  # the work before, as its result was not asked for
            self._stream.synchronize()
        places = [(array, self.arrays[name].at) for name, array in inputs.items()]
        transfer.put(places, self._words.at)
        self._unheard = True
        self._graph.launch()

    def out(self) -> mx.array:
        """What the work that was begun last gives; to be asked for once."""
        if self._slow:  # a kernel that waits so long may be taken for one that hangs
            start = time.perf_counter()
            self._stream.synchronize()
            self._slow = time.perf_counter() - start > _LONG
        place = self.arrays["out"]
        out = transfer.get(place.at, tuple(place.shape), self._dtype, self._words.at)
        self._unheard = False
        return out


def _finish(stream: Stream) -> None:
    """Before a recording's memory serves others."""
    with suppress(CudaError, RuntimeError):  # a device that broke
        stream.synchronize()
        mx.synchronize()  # whose kernels know addresses in it, and do not hold it
