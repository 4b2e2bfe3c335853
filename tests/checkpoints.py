"""Files for loading tests: small checkpoints in every layout, and hollow ones.

A hollow file has a real header and a sparse body of zeros, so that it costs nothing to
write, whatever its size.
"""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import seeded
from safetensors.numpy import save_file

Arrays = dict[str, np.ndarray]

# part → rows of (LDM name, shape, diffusers name, shape), after diffusers' converters
NAMES = json.loads(
    gzip.decompress((Path(__file__).parent / "golden/names.json.gz").read_bytes())
)["small"]
FOLDERS = {
    "unet": ("unet", "diffusion_pytorch_model"),
    "vae": ("vae", "diffusion_pytorch_model"),
    "clip_l": ("text_encoder", "model"),
}
FP16_SHARDS = "{stem}.safetensors.index.fp16.json", "{stem}.fp16-0000{i}-of-00002"
SHARDS = "{stem}.safetensors.index.json", "{stem}-0000{i}-of-00002"
SIZES = {"F16": 2, "BF16": 2, "F32": 4, "F8_E4M3": 1, "F8_E8M0": 1, "I64": 8}


def hollow(
    path: Path,
    shapes: seeded.Shapes,
    dtype: str = "F16",
    values: Arrays | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """`values`: float32 tensors that are not hollow."""
    header, end = {"__metadata__": metadata or {}}, 0
    for name, array in (values or {}).items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": "F32",
            "shape": array.shape,
            "data_offsets": (start, end),
        }
    for name, shape in shapes.items():
        start, end = end, end + SIZES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(b"".join(array.tobytes() for array in (values or {}).values()))
        file.truncate(8 + len(text) + end)
    return path


def in_diffusers(part: str, arrays: Arrays) -> Arrays:
    """A part's tensors under the names, and in the shapes, of diffusers."""
    return {
        name: arrays[ldm].reshape(shape)
        for ldm, _, name, shape in NAMES[part]
        if ldm in arrays
    }


def write_part(folder: Path, part: str, arrays: Arrays, kind: str = "plain") -> None:
    """One part's folder. `kind`: plain, fp16, shards, or fp16 shards."""
    name, stem = FOLDERS[part]
    (folder / name).mkdir(parents=True)
    tensors = in_diffusers(part, arrays)
    if kind in ("plain", "fp16"):
        ending = ".fp16.safetensors" if kind == "fp16" else ".safetensors"
        save_file(tensors, folder / name / (stem + ending), {"format": "pt"})
        return
    index, shard = FP16_SHARDS if kind == "fp16 shards" else SHARDS
    weight_map = {}
    for i in (1, 2):
        chosen = dict(list(tensors.items())[i - 1 :: 2])
        file = shard.format(stem=stem, i=i) + ".safetensors"
        save_file(chosen, folder / name / file, {"format": "pt"})
        weight_map |= dict.fromkeys(chosen, file)
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / name / index.format(stem=stem)).write_text(text)


def write_folder(folder: Path, arrays: Arrays, kind: str = "plain") -> Path:
    """A diffusers model; its tokenizer is not written."""
    for part in FOLDERS:
        write_part(folder, part, arrays, kind)
    return folder


def write_tokenizer(folder: Path, size: int) -> None:
    """`size` tokens, and no merges."""
    (folder / "tokenizer").mkdir(parents=True)
    tokens = [f"{i}</w>" for i in range(size - 2)] + [
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "tokenizer/vocab.json").write_text(json.dumps(vocab))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
