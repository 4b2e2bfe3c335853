"""Pickles of PyTorch checkpoints, opcode by opcode, and the files around them."""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

# What a legacy file begins with: a magic number, a version, the machine.
LEGACY = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}))


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def storage(key: str = "0", length: bytes = b"K\3", kind: str = "Float") -> bytes:
    """Opcodes that push a storage of 3 values."""
    identity = text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key)
    return b"(" + identity + text("cpu") + length + b"tQ"


def tensor(
    of: bytes = b"", offset=b"K\0", shape=b"K\3\x85", stride=b"K\1\x85"
) -> bytes:
    """Opcodes that push a tensor of 3 values."""
    of = of or storage()
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return rebuild + b"(" + of + offset + shape + stride + b"\x89NtR"


def named(*names: str) -> bytes:
    """Opcodes that push a dict of tensors."""
    return b"}" + b"".join(text(name) + tensor() + b"s" for name in names)


def zipped(path: Path, opcodes: bytes, data: bytes = bytes(12), **changes) -> Path:
    """A checkpoint with one storage, or with members as `changes` says."""
    members = {"data.pkl": b"\x80\x02" + opcodes + b".", "data/0": data, **changes}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"x/{name}", content)
    return path


def checkpoint(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A checkpoint as trainers save it: float16 tensors under "state_dict"."""
    pickled, members = text("state_dict") + b"}", {}
    for key, (name, array) in enumerate(arrays.items()):
        strides = (step // array.itemsize for step in array.strides)
        half = storage(str(key), _number(array.size), "Half")
        shape, stride = (
            b"(" + b"".join(map(_number, n)) + b"t" for n in (array.shape, strides)
        )
        pickled += text(name) + tensor(half, shape=shape, stride=stride) + b"s"
        members[f"data/{key}"] = array.astype(np.float16).tobytes()
    return zipped(path, b"}" + pickled + b"s", b"", **members)


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
