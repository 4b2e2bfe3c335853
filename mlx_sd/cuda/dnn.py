"""Convolutions and attention by cuDNN, which MLX loads.

An operation is a graph of descriptors, from which cuDNN makes a plan. Numbers are of
cuDNN 9's headers: up to 41 kinds of descriptors, from 100 their attributes.
"""

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_bool, c_float, c_int32, c_int64, c_void_p
from functools import cache

import mlx.core as mx

from .driver import WORKSPACE, CudaError, Stream, check, when_gone

_TYPES = {mx.float16: 2, mx.bfloat16: 9}  # cudnnDataType_t
_FLOAT32 = 0

Shape = tuple[int, ...]


@cache
def _dnn() -> tuple[ctypes.CDLL, c_void_p]:
    library, handle = ctypes.CDLL("libcudnn.so.9"), c_void_p()
    check(library.cudnnCreate(byref(handle)), "cudnnCreate")
    return library, handle


class _Descriptor:
    """A cudnnBackendDescriptor_t, with what it refers to kept alive."""

    CONVOLUTION, CONFIG, HEURISTIC, PLAN, FORWARD = 1, 3, 4, 5, 10
    GRAPH, VARIANTS, TENSOR, ATTENTION = 15, 16, 17, 41

    def __init__(self, kind: int):
        self.handle, self._kept = c_void_p(), list[object]()
        library, _ = _dnn()
        status = library.cudnnBackendCreateDescriptor(kind, byref(self.handle))
        check(status, "cudnnBackendCreateDescriptor")
        when_gone(self, library.cudnnBackendDestroyDescriptor, self.handle)

    def set(self, attribute: int, kind: int, values: ctypes.Array) -> None:
        status = _dnn()[0].cudnnBackendSetAttribute(
            self.handle, attribute, kind, c_int64(len(values)), values
        )
        check(status, f"cuDNN's attribute {attribute}")

    def integers(self, attribute: int, *values: int) -> None:
        self.set(attribute, 3, (c_int64 * len(values))(*values))

    def enum(self, attribute: int, kind: int, value: int) -> None:
        self.set(attribute, kind, (c_int32 * 1)(value))

    def number(self, attribute: int, value: float) -> None:
        self.set(attribute, 4, (c_float * 1)(value))

    def pointers(self, attribute: int, *values: int | c_void_p) -> None:
        self.set(attribute, 6, (c_void_p * len(values))(*values))

    def descriptors(self, attribute: int, *values: "_Descriptor") -> None:
        self._kept += values
        self.set(attribute, 15, (c_void_p * len(values))(*(v.handle for v in values)))

    def keep(self, other: "_Descriptor") -> None:
        self._kept.append(other)

    def finalize(self) -> int:
        return _dnn()[0].cudnnBackendFinalize(self.handle)


class Plan:
    """Operations that cuDNN does as one, on tensors by their number from 1."""

    def __init__(
        self, what: str, *operations: _Descriptor, values: Sequence[float] = ()
    ):
        """
        Args:
            values: of the tensors of one number that come before all others.
        """
        graph = _Descriptor(_Descriptor.GRAPH)
        graph.set(800, 0, (c_void_p * 1)(_dnn()[1]))
        graph.descriptors(801, *operations)
        check(graph.finalize(), f"the graph of {what}")
        self._what, self._plan = what, _plan(graph, what)
        self._values = [c_float(value) for value in values]

    def __call__(self, stream: Stream, *places: int) -> None:
        """
        Args:
            places: addresses of the tensors, and of WORKSPACE bytes.
        """
        library, handle = _dnn()
        check(library.cudnnSetStream(handle, stream.handle), "cudnnSetStream")
        *tensors, workspace = places
        known = [ctypes.addressof(value) for value in self._values]
        variants = _Descriptor(_Descriptor.VARIANTS)
        variants.integers(1000, *range(1, 1 + len(known) + len(tensors)))
        variants.pointers(1001, *known, *tensors)
        variants.pointers(1003, workspace)
        check(variants.finalize(), f"the pointers of {self._what}")
        status = library.cudnnBackendExecute(handle, self._plan.handle, variants.handle)
        check(status, self._what)


@cache
def convolution(
    dtype: mx.Dtype,
    x: Shape,
    weight: Shape,
    out: Shape,
    stride: int,
    padding: tuple[int, int],
) -> Plan:
    """(B, H, W, I), (O, h, w, I) → (B, H', W', O)

    Args:
        x, weight, out: shapes.
        padding: zeros above and left of the map, below and right of it.
    """
    tensors = [_map(i, dtype, s) for i, s in enumerate((x, weight, out), 1)]
    how = _Descriptor(_Descriptor.CONVOLUTION)
    how.enum(100, 1, _FLOAT32)
    how.enum(101, 7, 1)  # the kernel is not mirrored
    how.integers(102, 1, 1)  # dilation
    how.integers(103, stride, stride)
    how.integers(104, padding[1], padding[1])
    how.integers(105, padding[0], padding[0])
    how.integers(106, 2)  # dimensions
    check(how.finalize(), "a convolution's description")
    forward = _Descriptor(_Descriptor.FORWARD)
    forward.number(700, 1.0)
    forward.number(701, 0.0)
    parts = how, tensors[1], tensors[0], tensors[2]
    for attribute, part in enumerate(parts, 702):
        forward.descriptors(attribute, part)
    check(forward.finalize(), "a convolution")
    return Plan("a convolution", forward)


@cache
def scaled_attention(
    dtype: mx.Dtype, heads: int, *parts: tuple[tuple[int, int, int], int]
) -> Plan:
    """softmax(q kᵀ / √width) v, head by head, without scores in memory.

    Args:
        parts: shape (B, L, D) of q, k, v and the result, and their rows' distance.

    Raises: CudaError if cuDNN is older than 9.13 or has none for this width.
    """
    operation = _Descriptor(_Descriptor.ATTENTION)
    for i, ((B, rows, D), pitch) in enumerate(parts):
        width = D // heads
        steps = [rows * pitch, width, pitch, 1]
        sizes = [B, heads, rows, width]
        tensor = _tensor(2 + i, _TYPES[dtype], sizes, steps)
        operation.descriptors(2800 + i, tensor)
    scale = _tensor(1, _FLOAT32, [1] * 4, [1] * 4, by_value=True)
    operation.descriptors(2805, scale)
    check(operation.finalize(), "attention")
    return Plan("attention", operation, values=[width**-0.5])


def _map(uid: int, dtype: mx.Dtype, shape: Shape) -> _Descriptor:
    """In memory order (B, H, W, C), which cuDNN calls (B, C, H, W)."""
    B, H, W, C = shape
    steps = [H * W * C, 1, W * C, C]
    return _tensor(uid, _TYPES[dtype], [B, C, H, W], steps)


def _tensor(
    uid: int,
    kind: int,
    sizes: Sequence[int],
    steps: Sequence[int],
    by_value: bool = False,
) -> _Descriptor:
    """
    Args:
        by_value: one number, in the CPU's memory.
    """
    tensor = _Descriptor(_Descriptor.TENSOR)
    tensor.integers(900, 16)  # bytes of alignment
    tensor.enum(901, 1, kind)
    tensor.integers(902, *sizes)
    tensor.integers(903, *steps)
    tensor.integers(906, uid)
    tensor.set(908, 2, (c_bool * 1)(by_value))
    check(tensor.finalize(), "a tensor's description")
    return tensor


def _plan(graph: _Descriptor, what: str) -> _Descriptor:
    """Of the first engine that cuDNN proposes and that works here."""
    for mode in (3, 2):  # A, and the fallback
        heuristic = _Descriptor(_Descriptor.HEURISTIC)
        heuristic.enum(200, 8, mode)
        heuristic.descriptors(201, graph)
        if heuristic.finalize():
            continue
        configs = [_Descriptor(_Descriptor.CONFIG) for _ in range(8)]
        handles = (c_void_p * len(configs))(*(config.handle for config in configs))
        found = c_int64()
        status = _dnn()[0].cudnnBackendGetAttribute(
            heuristic.handle, 202, 15, c_int64(len(configs)), byref(found), handles
        )
        for config in configs[: 0 if status else found.value]:
            plan = _Descriptor(_Descriptor.PLAN)
            plan.set(400, 0, (c_void_p * 1)(_dnn()[1]))
            plan.descriptors(401, config)
            if not plan.finalize() and _workspace(plan) <= WORKSPACE:
                plan.keep(graph)
                return plan
    raise CudaError(f"CUDA: cuDNN has no plan for {what}")


def _workspace(plan: _Descriptor) -> int:
    size, count = (c_int64 * 1)(), c_int64()
    status = _dnn()[0].cudnnBackendGetAttribute(
        plan.handle, 402, 3, c_int64(1), byref(count), size
    )
    check(status, "a convolution's workspace")
    return size[0]
