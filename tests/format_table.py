"""Every family of models in every kind of file: python tests/format_table.py

A cell passes if the model is recognised as its kind, each tensor has its place, and
each part's tensors fill our model of it in name and shape. The files are hollow: of
real size, with real headers, but zeros that take no room on disk; PyTorch's, written by
torch where it is installed, hold views of one block of zeros.
"""

import math
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import names
import seeded
from checkpoints import hollow

from mlx_sd import SDError
from mlx_sd.build import outline
from mlx_sd.opening import OPTIONS, open_source
from mlx_sd.source import Source

Given = dict[str, Path]  # the options of open_source, "" for the model itself


def single(dtype: str) -> Callable[[Path, str], Given]:
    def write(folder: Path, kind: str) -> Given:
        return {"": hollow(folder / "x.safetensors", names.ldm(kind), dtype)}

    return write


def checkpoint(legacy: bool) -> Callable[[Path, str], Given]:
    def write(folder: Path, kind: str) -> Given:
        state = {"state_dict": _views(names.ldm(kind)), "global_step": 1}
        return {"": _saved(folder / "x.ckpt", state, legacy)}

    return write


def gguf(folder: Path, kind: str) -> Given:
    """float16, under the names that stable-diffusion.cpp gives."""
    table, end = b"", 0
    shapes = names.sdcpp(kind)
    for name, shape in shapes.items():
        axes = shape[::-1]
        table += struct.pack("<Q", len(name)) + name.encode()
        table += struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, 1, end)
        end += -(-2 * math.prod(axes) // 32) * 32
    start = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), 0) + table
    path = folder / "x.gguf"
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(-(-len(start) // 32) * 32 + end)
    return {"": path}


def diffusers(suffix: str) -> Callable[[Path, str], Given]:
    text = "model" if suffix == ".safetensors" else "pytorch_model"

    def write(folder: Path, kind: str) -> Given:
        for part, shapes in names.diffusers(kind).items():
            (folder / names.FOLDERS[part]).mkdir()
            stem = "diffusion_pytorch_model" if part in ("unet", "vae") else text
            path = folder / names.FOLDERS[part] / (stem + suffix)
            if suffix == ".safetensors":
                hollow(path, shapes)
            else:
                _saved(path, _views(shapes), legacy=False)
        return {"": folder}

    return write


def separate(folder: Path, kind: str) -> Given:
    """One file a part, names without prefixes, as ComfyUI and sd.cpp take them."""
    option = {part: name for name, part in OPTIONS.items()} | {"clip_h": "clip_l"}
    return {
        option[part]: hollow(folder / f"{part}.safetensors", shapes)
        for part, shapes in names.diffusers(kind).items()
    }


FORMATS: dict[str, Callable[[Path, str], Given]] = {
    "safetensors f16": single("F16"),
    "safetensors fp8": single("F8_E4M3"),
    ".ckpt zip": checkpoint(legacy=False),
    ".ckpt legacy": checkpoint(legacy=True),
    "GGUF": gguf,
    "folder": diffusers(".safetensors"),
    "folder .bin": diffusers(".bin"),
    "parts": separate,
}


def _views(shapes: seeded.Shapes) -> dict:
    import torch

    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    zeros = torch.zeros(max(sizes.values()), dtype=torch.float16)
    return {name: zeros[:size].view(shapes[name]) for name, size in sizes.items()}


def _saved(path: Path, state: dict, legacy: bool) -> Path:
    import torch

    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


def fault(source: Source, kind: str) -> str:
    """What is wrong with an opened model; "" if nothing."""
    if source.kind.name != kind:
        return f"taken for {source.kind.name}"
    if missing := set(source.kind.parts) - source.contents.parts.keys():
        return f"lacks {missing}"
    if unknown := source.contents.unknown:
        return f"{len(unknown)} unknown"
    for part, parameters in source.contents.parts.items():
        outline(part, parameters)
    return ""


def cell(kind: str, write: Callable[[Path, str], Given]) -> str:
    if write is gguf and names.KINDS[kind][0] not in names.NAMES["sdcpp"]:
        return "–"  # stable-diffusion.cpp does not know it
    with tempfile.TemporaryDirectory() as folder:
        try:
            given = write(Path(folder), kind)
            model = given.pop("", None)
            return fault(open_source(model, **given), kind) or "yes"
        except ImportError:
            return "no torch"
        except SDError as error:
            return str(error)


def main() -> None:
    print(f"| kind | {' | '.join(FORMATS)} |")
    print("|---" * (len(FORMATS) + 1) + "|")
    failed = False
    for kind in names.KINDS:
        cells = [cell(kind, write) for write in FORMATS.values()]
        failed |= not set(cells) <= {"yes", "–", "no torch"}
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
