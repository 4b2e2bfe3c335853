"""Golden checkpoints written by torch: both formats, every type, views of all kinds.

Run: python tests/golden/make_pickles.py (torch, safetensors; seconds).
"""

import collections
import io
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from provenance import FOLDER, record

NOTES = """
`pytorch_zip.ckpt`, `pytorch_legacy.ckpt`: the same tensors, as a trainer saves them,
pickled with protocol 2. `pytorch_old.pth`: what torch of 2017 wrote from Python 2,
pickled here by hand and read back by torch: _rebuild_tensor, an OrderedDict made from
a list, views of storages. `every_type.safetensors`: contiguous tensors of each type.
`tensors.npz`: name → the values that torch gives: float64 as float32, 8-bit
floats as float16, bfloat16 as its bits. `e4m3`, `e5m2`: the float16 value of each code.
"""
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
EIGHTH = (torch.float8_e4m3fn, torch.float8_e5m2)


def typed() -> dict[str, torch.Tensor]:
    """One contiguous tensor of each type, with its extreme values."""
    tensors = {}
    for dtype in INTEGERS + UNSIGNED:
        low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        tensors[str(dtype)] = torch.tensor([[low, 0, 1], [5, 100, high]], dtype=dtype)
    for dtype in FLOATS + EIGHTH:
        limits = torch.finfo(dtype)
        values = [limits.min, -1.5, 0.0, limits.smallest_normal, 1 / 3, limits.max]
        tensors[str(dtype)] = torch.tensor(values, dtype=torch.float64).to(dtype)
    tensors["torch.bool"] = torch.tensor([True, False, True])
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 3)
    return tensors


def viewed() -> dict[str, torch.Tensor]:
    """Tensors that share a storage, or do not lie in it as their shape says."""
    base = torch.arange(120, dtype=torch.float32).reshape(4, 5, 6) / 7
    half = torch.arange(72, dtype=torch.float16).reshape(2, 4, 3, 3)
    return {
        "base": base,
        "same": base,
        "row": base[2],
        "transposed": base.transpose(0, 2),
        "stepped": base[1::2, ::3, 4:],
        "diagonal": torch.diagonal(base),
        "expanded": base[:1, :, 3:4].expand(3, 5, 2),
        "one value": torch.tensor(3.0).expand(2, 3),
        "windows": torch.arange(7.0).unfold(0, 3, 2),
        "channels last": half.to(memory_format=torch.channels_last),
        "empty view": base[:, :0],
        "parameter": torch.nn.Parameter(base[0].t()),
        "last value": base[3, 4, 5],
    }


def lightning(tensors: dict[str, torch.Tensor]) -> dict:
    """A training checkpoint, with what SD's has beside its state_dict."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    sys.modules |= dict.fromkeys([name, "pytorch_lightning"], module)
    state = collections.OrderedDict(tensors)
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    return {
        "epoch": 3,
        "state_dict": state,
        "callbacks": {
            module.ModelCheckpoint: {"best": np.float64(0.5), "path": "a/b.ckpt"}
        },
        "lr_schedulers": [{"base_lrs": [1e-4], "steps": {1, 2}}],
        "size": torch.Size([1, 2]),
        "loops": (None, True, 1 << 40, b"bytes", -1.5),
    }


class OldPickler(pickle._Pickler):
    """Pickles tensors by torch's functions of 2017, and dicts as Python 2 did."""

    def persistent_id(self, value):
        return value.identity if isinstance(value, Stored) else None

    def reducer_override(self, value):
        if isinstance(value, collections.OrderedDict):
            return collections.OrderedDict, ([[k, v] for k, v in value.items()],)
        if isinstance(value, Old):
            return torch._utils._rebuild_tensor, value.arguments
        return NotImplemented


class Stored:
    def __init__(self, *identity):
        self.identity = ("storage", torch.FloatStorage, "7", "cpu", 12, *identity)


class Old:
    def __init__(self, *arguments):
        self.arguments = arguments


def write_old(path: Path) -> None:
    whole, part = Stored(None), Stored(("8", 3, 6))
    tensors = collections.OrderedDict(
        {
            "whole": Old(whole, 0, (3, 4), (4, 1)),
            "turned": Old(whole, 1, (4, 2), (1, 4)),
            "of a view": Old(part, 2, (2, 2), (2, 1)),
        }
    )
    file = io.BytesIO()
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    for value in (0x1950A86A20F9469CFC6C, 1001, machine):
        pickle.dump(value, file, 2)
    OldPickler(file, 2).dump({"state_dict": tensors})
    pickle.dump(["7"], file, 2)
    file.write((12).to_bytes(8, "little") + np.arange(12, dtype="<f4").tobytes())
    path.write_bytes(file.getvalue())


def values(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    if tensor.dtype == torch.float64:
        return tensor.float().numpy()
    return (tensor.half() if tensor.dtype in EIGHTH else tensor).numpy()


def main() -> None:
    checkpoint = lightning(typed() | viewed())
    zipped, legacy = FOLDER / "pytorch_zip.ckpt", FOLDER / "pytorch_legacy.ckpt"
    torch.save(checkpoint, zipped)
    torch.save(checkpoint, legacy, _use_new_zipfile_serialization=False)
    write_old(FOLDER / "pytorch_old.pth")
    save_file(typed(), FOLDER / "every_type.safetensors")
    old = torch.load(FOLDER / "pytorch_old.pth", weights_only=False)["state_dict"]
    tensors = checkpoint["state_dict"] | old
    golden = {name: values(tensor) for name, tensor in tensors.items()}
    codes = torch.arange(256, dtype=torch.uint8)
    golden["e4m3"] = codes.view(torch.float8_e4m3fn).half().numpy()
    golden["e5m2"] = codes.view(torch.float8_e5m2).half().numpy()
    np.savez_compressed(FOLDER / "tensors.npz", **golden)
    record(Path(__file__).name, ("torch", "safetensors", "numpy"), NOTES)


if __name__ == "__main__":
    main()
