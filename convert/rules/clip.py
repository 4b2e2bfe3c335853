"""Names of CLIP text encoder tensors as Hugging Face's transformers writes them.

A1111's single files hold the same names, behind a prefix of their own.
"""

from collections.abc import Iterator

from ..layouts import SAME
from .rule import Rule, Rules, under

_LAYER = tuple(
    (theirs, ours, SAME)
    for theirs, ours in (
        ("layer_norm1", "norm1"),
        ("self_attn.q_proj", "attn.q"),
        ("self_attn.k_proj", "attn.k"),
        ("self_attn.v_proj", "attn.v"),
        ("self_attn.out_proj", "attn.out"),
        ("layer_norm2", "norm2"),
        ("mlp.fc1", "fc1"),
        ("mlp.fc2", "fc2"),
    )
)


def _huggingface(root: str) -> Iterator[Rule]:
    yield Rule(f"{root}embeddings.token_embedding.weight", "token.weight")
    yield Rule(f"{root}embeddings.position_embedding.weight", "position.weight")
    yield from under(f"{root}encoder.layers.{{i}}", "layers.{i}", _LAYER)
    yield Rule(f"{root}final_layer_norm.{{p}}", "final_norm.{p}")


# Some merged checkpoints, and transformers itself since version 5, leave out the root.
HUGGINGFACE = Rules(_huggingface("text_model."), _huggingface(""))
