"""Names of CLIP text encoder tensors in Hugging Face, OpenCLIP and GGUF files.

Single files of SD 1.x and the first encoder of SDXL hold Hugging Face's names, those of
SD 2.x and the second encoder of SDXL OpenCLIP's. stable-diffusion.cpp writes the latter
into GGUF files under Hugging Face's names, but with q, k and v still in one tensor.
"""

from collections.abc import Iterator

from ..layouts import ROWS, SAME, TRANSPOSED
from .rule import Rule, Rules, under

_QKV = "layers.{i}.attn.{qkv}"

_HUGGINGFACE = tuple(
    (theirs, ours, SAME)
    for theirs, ours in (
        ("layer_norm1", "norm1"),
        ("self_attn.out_proj", "attn.out"),
        ("layer_norm2", "norm2"),
        ("mlp.fc1", "fc1"),
        ("mlp.fc2", "fc2"),
    )
)
_SPLIT = tuple((f"self_attn.{x}_proj", f"attn.{x}", SAME) for x in "qkv")
_OPENCLIP = tuple(
    (theirs, ours, SAME)
    for theirs, ours in (
        ("ln_1", "norm1"),
        ("attn.out_proj", "attn.out"),
        ("ln_2", "norm2"),
        ("mlp.c_fc", "fc1"),
        ("mlp.c_proj", "fc2"),
    )
)


def _huggingface(root: str, fused: bool = False) -> Iterator[Rule]:
    """`fused`: as stable-diffusion.cpp renames what OpenCLIP wrote."""
    layer = f"{root}encoder.layers.{{i}}"
    yield Rule(f"{root}embeddings.token_embedding.weight", "token.weight")
    yield Rule(f"{root}embeddings.position_embedding.weight", "position.weight")
    yield from under(layer, "layers.{i}", _HUGGINGFACE)
    if fused:
        yield Rule(f"{layer}.self_attn.in_proj.{{p}}", f"{_QKV}.{{p}}", ROWS)
    else:
        yield from under(layer, "layers.{i}", _SPLIT)
    yield Rule(f"{root}final_layer_norm.{{p}}", "final_norm.{p}")
    outer = root.removesuffix("text_model.")
    yield Rule(f"{outer}text_projection.weight", "projection.weight")
    matrix = TRANSPOSED if fused else SAME
    yield Rule(f"{root}text_projection", "projection.weight", matrix)


def _openclip(root: str) -> Iterator[Rule]:
    layer = f"{root}transformer.resblocks.{{i}}"
    yield Rule(f"{root}token_embedding.weight", "token.weight")
    yield Rule(f"{root}positional_embedding", "position.weight")
    yield from under(layer, "layers.{i}", _OPENCLIP)
    yield Rule(f"{layer}.attn.in_proj_weight", f"{_QKV}.weight", ROWS)
    yield Rule(f"{layer}.attn.in_proj_bias", f"{_QKV}.bias", ROWS)
    yield Rule(f"{root}ln_final.{{p}}", "final_norm.{p}")
    yield Rule(f"{root}text_projection", "projection.weight", TRANSPOSED)
    yield Rule(f"{root}text_projection.weight", "projection.weight")


LDM = Rules(_huggingface("transformer.text_model."))
HUGGINGFACE = Rules(_huggingface("text_model."))
OPENCLIP = Rules(_openclip("model."))

# Some merged checkpoints, and transformers itself since version 5, leave out the root.
OTHERS = (
    Rules(_huggingface("transformer.")),
    Rules(_huggingface("")),
    Rules(_openclip("")),
    Rules(_huggingface("transformer.text_model.", fused=True)),
    Rules(_huggingface("text_model.", fused=True)),
)
