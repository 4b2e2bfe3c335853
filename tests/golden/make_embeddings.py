"""Textual inversion files as the programs that train them write them.

Run: python tests/golden/make_embeddings.py (torch, safetensors; a second).
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from provenance import FOLDER, record

OUT = FOLDER / "embeddings"
NOTES = """
`embeddings/`: two vectors of width 8, i/8 - 1 for i from 0 to 15; the first alone in
`one_*`; in `sdxl*` also clip_g's, the first four values thrice. A1111's dict, the same
in the format before torch 1.6, the first textual inversion's `ParameterDict`,
diffusers' dict, `emb_params`, and SDXL's two keys.
"""


def main():
    OUT.mkdir(exist_ok=True)
    vectors = torch.arange(16).reshape(2, 8) / 8 - 1
    webui = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.nn.Parameter(vectors)},
        "name": "cat",
        "step": 500,
        "sd_checkpoint": "cc6cb27103",
        "sd_checkpoint_name": "v1-5",
    }
    both = {"clip_l": vectors, "clip_g": vectors[:, :4].repeat(1, 3)}
    torch.save(webui, OUT / "webui.pt")
    tokens = {**webui, "string_to_token": {"*": torch.tensor(265)}}
    torch.save(tokens, OUT / "legacy.pt", _use_new_zipfile_serialization=False)
    first = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})
    torch.save({**tokens, "string_to_param": first}, OUT / "first.pt")
    torch.save({"<cat>": vectors[0]}, OUT / "one_diffusers.bin")
    torch.save({"emb_params": vectors.half()}, OUT / "half.ckpt")
    torch.save(both, OUT / "sdxl.pt")
    save_file({"emb_params": vectors.bfloat16()}, OUT / "bf16.safetensors")
    save_file({"<cat>": vectors[0].clone()}, OUT / "one_token.safetensors")
    save_file(both, OUT / "sdxl_both.safetensors")
    record("make_embeddings.py", ("torch", "safetensors"), NOTES)


if __name__ == "__main__":
    main()
