"""Golden conversions: what stable-diffusion.cpp writes, and in which types.

Run: python tests/golden/make_convert.py (stable-diffusion-cpp-python, gguf; 2 min, 5 GB
of disk).
"""

import gzip
import json
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from provenance import FOLDER, record
from safetensors.numpy import save_file
from stable_diffusion_cpp import GGML_TYPE_MAP
from stable_diffusion_cpp.stable_diffusion_cpp import convert

sys.path.insert(0, str(Path(__file__).parents[1]))
import checkpoints
import seeded

# Rules that ask for larger types than --type exceed its memory, and end the program.
CASES = (  # type in the file, --type, --tensor-type-rules
    ("F32", "q8_0", ""),
    ("F32", "q4_k", ""),
    ("F32", "f16", ""),
    ("BF16", "q5_0", ""),
    ("F16", "bf16", ""),
    ("F32", "f16", "time_embed=q4_0,bias=f16,to_k=q8_0,attn2=q4_1,to_q=q6_K"),
    ("F32", "f32", r"^first_stage.*\.weight=f16,transformer_blocks\..*ff=q5_1"),
)
# What its rules for names look for, and what only looks like it. Newer versions than
# this one spare x.weight_scale too.
PROBES = (
    *("img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer."),
    *("x_embedder.", "t_embedder.", "y_embedder.", "context_embedder.", "time_embed."),
    *("label_emb.", "pos_embed", "embedding", "x.scale", "x.bias"),
    *("in.", "time_embed_", "label_emb_", "embed.", "x.scale.weight", "bias.weight"),
)
NOTES = """
`sdcpp_types.json.gz`: `names` of all tensors of SD 1.5 and of some made up, of shape
(2, 256); and `cases` of type in the file, type, rules, and the tensors' types as
numbers in `ggml`.
`sdcpp_small.gguf` is `sdcpp_small.safetensors` as q8_0.
"""


def run(source: Path, target: Path, kind: str, rules: str = "") -> gguf.GGUFReader:
    done = convert(
        str(source).encode(),
        b"",
        str(target).encode(),
        GGML_TYPE_MAP[kind],
        rules.encode(),
        False,  # keep the names
    )
    if not done:
        raise RuntimeError(f"{source} to {kind}")
    return gguf.GGUFReader(target)


def types(folder: Path) -> dict:
    shapes = {**seeded.sd1_shapes(), **{f"a.{p}": (2, 256) for p in PROBES}}
    names, cases, numbers = sorted(shapes), [], set()
    for dtype, kind, rules in CASES:
        source = checkpoints.hollow(folder / "hollow.safetensors", shapes, dtype)
        reader = run(source, folder / "out.gguf", kind, rules)
        found = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
        if found.keys() != shapes.keys():
            raise ValueError("tensors came or went")
        cases.append([dtype, kind, rules, [int(found[name]) for name in names]])
        numbers |= set(found.values())
    return {"ggml": {int(n): n.name for n in numbers}, "names": names, "cases": cases}


def small(folder: Path):
    """Repeated until its threads happen to write the tensors in order."""
    rng = np.random.default_rng(7)
    shapes = {
        "a.bias": (32,),
        "b.weight": (3, 64),
        "conv.weight": (2, 4, 3, 3),
        "point.weight": (5, 32, 1, 1),
        "row.weight": (1, 64),
        "scalar": (),
        "x.attn.weight": (2, 1, 32),
        "x.time_embed.0.weight": (4, 32),
    }
    arrays = {
        name: rng.standard_normal(shape).astype(np.float16)
        for name, shape in shapes.items()
    }
    source, target = FOLDER / "sdcpp_small.safetensors", FOLDER / "sdcpp_small.gguf"
    save_file(arrays, source)
    for _ in range(1000):
        reader = run(source, target, "q8_0")
        if [tensor.name for tensor in reader.tensors] == sorted(shapes):
            return
    raise RuntimeError("never in order")


def main():
    small(FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(types(Path(folder)), separators=(",", ":")).encode()
    (FOLDER / "sdcpp_types.json.gz").write_bytes(gzip.compress(text, mtime=0))
    record("make_convert.py", ("stable-diffusion-cpp-python", "gguf", "numpy"), NOTES)


if __name__ == "__main__":
    main()
