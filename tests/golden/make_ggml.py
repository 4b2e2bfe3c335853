"""Golden values of ggml's block types, and small GGUF files, from the gguf package.

Run: python tests/golden/make_ggml.py (gguf; a second).
"""

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from blocks import digest, random_bytes
from provenance import FOLDER, record

NOTES = """
`ggml.npz`: for each type that gguf decodes, `<type>_raw` and `<type>_values`: a block
of each of the bytes 00 FF 80 7F, then one of random bytes; `<type>_digest`, of 1000
blocks of random bytes (see `tests/blocks.py`). `<type>_sane_*`: 4 rows of 512 values
whose scales are around 0.01. `types`: name, number, values and bytes of a block of
every type.
`written*.gguf`: by gguf's GGUFWriter, with metadata of every type, aligned to 32 and
to 128 bytes; `gguf.npz`: their tensors' `<name>_shape`, in torch's order, and
`<name>_values`.
"""
PACKED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K")


def dequantize(raw: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(raw, GGMLQuantizationType[name]).reshape(-1)


def sane(name: str, size: int) -> np.ndarray:
    """(4, blocks of 512 values) random bytes, with scales and offsets around 0.01."""
    block = GGML_QUANT_SIZES[GGMLQuantizationType[name]][0]
    raw = random_bytes(f"sane {name}", 4 * 512 // block * size).reshape(-1, size).copy()
    count = 2 if name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K") else 1
    scales = (raw[:, :count].astype(np.float32) - 127.5) / 1e4
    raw[:, : 2 * count] = scales.astype("<f2").view(np.uint8)
    return raw.reshape(4, -1)


def values() -> dict[str, np.ndarray]:
    found = {}
    for kind in GGMLQuantizationType:
        name, (_, size) = kind.name, GGML_QUANT_SIZES[kind]
        if kind not in gguf.quants._type_traits or name == "BF16":
            continue
        constant = np.repeat(np.array([[0], [255], [128], [127]], np.uint8), size, 1)
        raw = np.concatenate([constant.reshape(-1), random_bytes(name, size)])
        many = random_bytes(name, 1000 * size)
        found[f"{name}_raw"] = raw
        found[f"{name}_values"] = dequantize(raw.reshape(5, size), name)
        found[f"{name}_digest"] = digest(dequantize(many.reshape(1000, size), name))
    for name in PACKED:
        raw = sane(name, GGML_QUANT_SIZES[GGMLQuantizationType[name]][1])
        found[f"{name}_sane_raw"] = raw
        found[f"{name}_sane_values"] = dequantize(raw, name).reshape(4, 512)
    found["types"] = [(k.name, k, *GGML_QUANT_SIZES[k]) for k in GGMLQuantizationType]
    return found


TENSORS = {  # name → type, shape as written; `flat` was (8, 4, 3, 3) before that
    "f32": ("F32", (2, 3)),
    "f16": ("F16", (5,)),
    "bf16": ("BF16", (3, 2, 1)),
    "f64": ("F64", (2, 1, 2, 2)),
    "i8": ("I8", (3,)),
    "i16": ("I16", (3,)),
    "i32": ("I32", (3,)),
    "i64": ("I64", (3,)),
    "q8_0": ("Q8_0", (2, 64)),
    "q4_k": ("Q4_K", (2, 1, 256)),
    "flat": ("Q4_0", (9, 32)),
}


def write(path: Path, alignment: int | None):
    writer = gguf.GGUFWriter(path, "sd1")
    if alignment:
        writer.add_custom_alignment(alignment)
    for kind in ("uint", "int"):
        for bits in (8, 16, 32, 64):
            getattr(writer, f"add_{kind}{bits}")(f"x.{kind}{bits}", 7)
    writer.add_float32("x.float32", 0.5)
    writer.add_float64("x.float64", 0.5)
    writer.add_bool("x.bool", True)
    writer.add_string("x.string", "grüezi")
    writer.add_array("x.strings", ["a", "", "bcd"])
    writer.add_array("x.floats", [0.5, 1.5])
    writer.add_array("x.many", list(range(100)))
    writer.add_array("comfy.gguf.orig_shape.flat", (8, 4, 3, 3))
    for name, (kind, _) in TENSORS.items():
        writer.add_tensor(name, stored(name), raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stored(name: str) -> np.ndarray:
    """As GGUFWriter takes it: bytes in rows, of blocks, else numbers."""
    kind, shape = TENSORS[name]
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    rows = (*shape[:-1], shape[-1] // block * size)
    raw = random_bytes(name, int(np.prod(rows))).reshape(rows)
    plain = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "u1"}
    if block > 1 or kind == "BF16":
        return raw
    return raw.view(plain.get(kind, f"<{kind.lower()[0]}{size}"))


def contents() -> dict[str, np.ndarray]:
    found = {}
    for name, (kind, shape) in TENSORS.items():
        data = stored(name)
        if kind.startswith(("Q", "B")):
            data = dequantize(data, kind)
        shape = (8, 4, 3, 3) if name == "flat" else shape
        found[f"{name}_shape"] = shape
        found[f"{name}_values"] = data.reshape(shape)
    return found


def main():
    np.savez_compressed(FOLDER / "ggml.npz", **values())
    np.savez_compressed(FOLDER / "gguf.npz", **contents())
    write(FOLDER / "written.gguf", None)
    write(FOLDER / "written-128.gguf", 128)
    record("make_ggml.py", ("gguf", "numpy"), NOTES)


if __name__ == "__main__":
    main()
