"""Prompts with weights, breaks and embeddings, encoded by transformers at small size.

Run: python tests/golden/make_encodings.py (torch, diffusers, transformers; seconds).
The weights are applied as A1111's "Original" emphasis does: states times weights, then
times the old mean over the new one, for each chunk.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from make_models import write_folder
from provenance import FOLDER, record

PACKAGES = ("torch", "diffusers", "transformers", "numpy")
NOTES = """
- `encodings.npz`: `cases`, JSON of [prompt, clip skip]; `states_<n>` of case n, (1,
  77·chunks, 32): every fourth feature. The prompts were divided by hand, see CASES. The
  encoder is the small one, in float64: in float32 the means leave a case 8e-6.
- `toy`, `dog`: vectors of two embeddings, by diffusers' load_textual_inversion.
"""
LONG = " ".join(f"word{n}" for n in range(30))
# The prompt; its chunks, each of (text, weight) pieces; clip skip.
CASES = [
    ("a photo of a cat", [[("a photo of a cat", 1)]], 1),
    (
        "an (important) word, [less] (so:1.5)",
        [
            [("an ", 1), ("important", 1.1), (" word, ", 1), ("less", 1 / 1.1)]
            + [(" ", 1), ("so", 1.5)]
        ],
        1,
    ),
    (
        "((night)) sky BREAK (no:-0.5) clouds",
        [[("night", 1.1 * 1.1), (" sky", 1)], [("no", -0.5), (" clouds", 1)]],
        1,
    ),
    ("(deep:0.3) sea", [[("deep", 0.3), (" sea", 1)]], 2),
    (f"(red:1.4) {LONG}", [[("red", 1.4), (f" {LONG}", 1)]], 1),
    ("a toy in a box", [[("a <toy> in a box", 1)]], 1),
    (
        "a (TOY and dog:1.3), toy",
        [[("a ", 1), ("<toy> and <dog>", 1.3), (", <toy>", 1)]],
        1,
    ),
]
COUNTS = {"toy": 3, "dog": 1}


def with_embeddings(vectors: dict[str, torch.Tensor]):
    """diffusers' pipeline of the small model, which knows both embeddings."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), "small")
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        for name, array in vectors.items():
            path = Path(folder) / f"{name}.safetensors"
            save_file({f"<{name}>": array}, path)
            pipe.load_textual_inversion(path, token=f"<{name}>")
    return pipe


def slices(pipe, pieces: list) -> list[list[tuple[int, float]]]:
    """The pieces' tokens and weights, 75 at a time."""
    tokens = []
    for text, weight in pieces:
        text = pipe.maybe_convert_prompt(text, pipe.tokenizer)
        ids = pipe.tokenizer(text, add_special_tokens=False).input_ids
        tokens += [(index, weight) for index in ids]
    return [tokens[start : start + 75] for start in range(0, len(tokens), 75)]


def encode(pipe, part: list[tuple[int, float]], skip: int) -> np.ndarray:
    missing = 75 - len(part)
    ids = [998, *(index for index, _ in part), 999, *[999] * missing]
    weights = [1, *(weight for _, weight in part), 1, *[1] * missing]
    model = pipe.text_encoder
    out = model(torch.tensor([ids]), output_hidden_states=True)
    norm = getattr(model, "text_model", model).final_layer_norm
    z = norm(out.hidden_states[-skip]).detach()
    weighted = z * torch.tensor(weights, dtype=torch.float64)[None, :, None]
    return (weighted * (z.mean() / weighted.mean())).float().numpy()


def main():
    generator = torch.Generator().manual_seed(4)
    vectors = {
        name: 0.05 * torch.randn(count, 128, generator=generator)
        for name, count in COUNTS.items()
    }
    pipe = with_embeddings({n: v if len(v) > 1 else v[0] for n, v in vectors.items()})
    pipe.text_encoder.double()  # the means are small differences of large numbers
    arrays = {name: array.numpy() for name, array in vectors.items()}
    for n, (_, chunks, skip) in enumerate(CASES):
        parts = [part for pieces in chunks for part in slices(pipe, pieces)]
        states = [encode(pipe, part, skip) for part in parts]
        arrays[f"states_{n}"] = np.concatenate(states, axis=1)[..., ::4]
        print(n, arrays[f"states_{n}"].shape)
    cases = json.dumps([[prompt, skip] for prompt, _, skip in CASES])
    np.savez_compressed(FOLDER / "encodings.npz", cases=cases, **arrays)
    record("make_encodings.py", PACKAGES, NOTES)


if __name__ == "__main__":
    main()
