"""What a PyTorch checkpoint's pickle holds: tensors by name, their bytes elsewhere.

A pickle may ask for nothing but the names in this module. Those of _CALLS describe a
tensor or a plain container, by a function of ours. Those that are inert stand for the
numbers and settings that trainers keep beside the tensors; nothing is made for them.
Any other name ends the reading, whether or not the pickle goes on to call it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from ..dtypes import DTYPES
from .entry import MAX_NAME, MAX_TENSORS
from .unpickle import MAX_STEPS, Call, Class, Inert, Pairs, Refused, Stream, unpickle

_MAX_AXES = 16
_MAX_LENGTH = 1 << 48  # of an axis or a storage, in values
_MAX_DEPTH = 16  # of containers in containers

# Keys that hold a whole model's tensors among a trainer's other records, and so are no
# part of their names. Others are: IP-Adapter's tensors are image_proj.x, ip_adapter.x,
# and a file may hold params.x beside its moving average, params_ema.x.
_WRAPPERS = ("state_dict", "model", "module", "_parameters")


@dataclass(frozen=True)
class Kind:
    """The type of a tensor or storage: a key of DTYPES; None for a storage of bytes."""

    dtype: str | None


@dataclass(frozen=True)
class Storage:
    """Bytes outside the pickle, from which tensors take their values."""

    key: str
    dtype: str | None
    length: int  # in values
    nbytes: int
    start: int  # of the part that tensors may take, in bytes
    end: int


@dataclass(frozen=True)
class Tensor:
    storage: Storage
    start: int  # of the first value in the storage, in bytes
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in values

    @property
    def nbytes(self) -> int:
        """Of its values, one after another."""
        return prod(self.shape) * DTYPES[self.dtype].size

    @property
    def span(self) -> int:
        """Bytes from the start of the first value to the end of the last."""
        axes = zip(self.shape, self.strides, strict=True)
        last = sum((length - 1) * stride for length, stride in axes)
        return (last + 1) * DTYPES[self.dtype].size if self.nbytes else 0

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for length, stride in zip(self.shape[::-1], self.strides[::-1], strict=True):
            if length > 1 and stride != expected:
                return self.nbytes == 0
            expected *= length
        return True


def read_tree(stream: Stream) -> tuple[Any, dict[str, Storage]]:
    """The object pickled at the stream's position, and by key the storages it names.

    Raises: Refused, with the position, for what is not in this module.
    """
    storages: dict[str, Storage] = {}

    def load(identity: Any) -> Storage:
        storage = _storage(identity)
        if storages.setdefault(storage.key, storage).nbytes != storage.nbytes:
            raise Refused(f"gives storage {storage.key[:20]!r} two sizes")
        return storage

    return unpickle(stream, _find, load), storages


def name_tensors(tree: Any) -> dict[str, Tensor]:
    """The tensors of nested dicts and lists; their names are the keys, joined by dots.

    Raises: Refused if two would have one name, or one has no proper name.
    """
    named: dict[str, Tensor] = {}
    for keys, tensor in _walk(tree, (), iter(range(MAX_STEPS))):
        name = _join(keys)
        if name in named:
            raise Refused(f"holds two tensors named {name[:100]!r}")
        if len(named) == MAX_TENSORS:
            raise Refused(f"holds more than {MAX_TENSORS} tensors")
        named[name] = tensor
    return named


Keys = tuple[Any, ...]


def _walk(value: Any, keys: Keys, visits: Iterator[int]) -> Iterator[tuple[Keys, Any]]:
    """(keys on the way, tensor), in the file's order."""
    if next(visits, None) is None or len(keys) > _MAX_DEPTH:
        raise Refused("holds containers too deep in each other, or in themselves")
    if isinstance(value, Tensor):
        yield keys, value
    elif isinstance(value, Pairs):
        for pair in value.items:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise Refused("holds a dict with an item that is no pair")
            yield from _walk(pair[1], (*keys, pair[0]), visits)
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            yield from _walk(item, (*keys, index), visits)


def _join(keys: Keys) -> str:
    if not keys or not all(map(_is_key, keys)):
        raise Refused("holds a tensor whose key is neither a short text nor a number")
    outer = [key for key in keys[:-1] if key not in _WRAPPERS]
    name = ".".join(map(str, [*outer, keys[-1]]))
    if len(name) > MAX_NAME:  # else many long ones of the same keys may fill memory
        raise Refused(f"names a tensor {name[:100]!r} and longer than {MAX_NAME}")
    return name


def _is_key(key: Any) -> bool:
    if type(key) is int:
        return abs(key) < 1 << 63
    return type(key) is str and len(key) <= MAX_NAME


def _storage(identity: Any) -> Storage:
    """("storage", type, key, device, length[, view]), as torch.save writes it.

    The legacy format has the view: None, or (its key, where it begins, its length).
    """
    first, count = 0, None
    match identity:
        case ("storage", Kind(dtype), str(key), _, int(length)):
            count = length
        case ("storage", Kind(dtype), str(key), _, int(length), None):
            count = length
        case ("storage", Kind(dtype), str(key), _, int(length), (_, int(a), int(b))):
            first, count = a, b
    if count is None or not 0 <= first <= first + count <= length < _MAX_LENGTH:
        raise Refused("names a storage that is not as torch.save writes one")
    size = DTYPES[dtype].size if dtype else 1
    start, end = first * size, (first + count) * size
    return Storage(key, dtype, length, length * size, start, end)


def _tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    """torch._utils._rebuild_tensor, and _v2 with all seven arguments."""
    dtype = storage.dtype if isinstance(storage, Storage) else None
    return _typed_tensor(
        storage, offset, shape, strides, requires_grad, hooks, Kind(dtype), metadata
    )


def _typed_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    kind: Any,
    metadata: Any = None,
) -> Tensor:
    """torch._utils._rebuild_tensor_v3; offset and strides in values."""
    if not isinstance(storage, Storage) or not isinstance(kind, Kind):
        raise Refused("describes a tensor without a storage")
    if kind.dtype is None:
        raise Refused("describes a tensor without a type")
    if metadata not in (None, Pairs([])):
        raise Refused("describes a tensor that is conjugate or negated")
    for numbers in (shape, strides, (offset,)):
        if not _are_lengths(numbers):
            raise Refused("describes a tensor with an impossible shape")
    if len(shape) != len(strides):
        raise Refused("describes a tensor with more axes than strides")
    start = storage.start + offset * DTYPES[kind.dtype].size
    tensor = Tensor(storage, start, kind.dtype, tuple(shape), tuple(strides))
    if start + tensor.span > storage.end:
        raise Refused(
            f"describes a tensor of shape {list(shape)} that ends {start + tensor.span}"
            f" bytes into a storage of {storage.end}"
        )
    return tensor


def _are_lengths(numbers: Any) -> bool:
    return (
        type(numbers) in (tuple, list)
        and len(numbers) <= _MAX_AXES
        and all(type(n) is int and 0 <= n < _MAX_LENGTH for n in numbers)
    )


def _parameter(tensor: Any, requires_grad: Any, hooks: Any) -> Tensor:
    """torch._utils._rebuild_parameter: a tensor, as far as its values go."""
    if not isinstance(tensor, Tensor):
        raise Refused("describes a parameter without a tensor")
    return tensor


def _ordered_dict(items: Any = ()) -> Pairs:
    """Python 2 gives all items at once, Python 3 none and then one after another."""
    if items != () and type(items) is not list:
        raise Refused("makes a dict of what is no list of items")
    return Pairs(items or [])


def _container(items: Any) -> Any:
    """A set or torch.Size, as the list or tuple that it is made of."""
    if type(items) not in (list, tuple):
        raise Refused("makes a container of what is none")
    return items


def _number(*_: Any) -> Inert:
    """Of NumPy's, or its type, or its bytes: no tensor, so not needed."""
    return Inert("numpy.number")


_STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.storage.UntypedStorage": None,
}
_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _container,
    "builtins.set": _container,
    "__builtin__.set": _container,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "numpy.dtype": _number,
    "_codecs.encode": _number,
}
# Classes that are keys among a trainer's records, as in SD 1.4's checkpoint.
_INERT = "pytorch_lightning.callbacks."


# The textual inversion of 2022 keeps its vectors in one.
_DICT = Class("torch.nn.modules.container.ParameterDict", "_parameters")
_KNOWN: dict[str, Call | Kind | Class] = {
    _DICT.name: _DICT,
    **{name: Kind(dtype) for name, dtype in (_STORAGES | _DTYPES).items()},
    **{name: Call(name, function) for name, function in _CALLS.items()},
}


def _find(name: str) -> Any:
    if name in _KNOWN:
        return _KNOWN[name]
    if name.startswith(_INERT):
        return Inert(name)
    raise Refused(
        f"asks for {name[:100]!r}, which is no part of a tensor; nothing of it was run"
    )
