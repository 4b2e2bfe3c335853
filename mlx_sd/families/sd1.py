"""Stable Diffusion 1.x: CLIP-L text, noise prediction, 512 x 512 pixels."""

import mlx.core as mx

from ..embeddings import Embeddings, Vectors
from ..models.clip import ClipText
from ..sampling.levels import scaled_linear
from ..sampling.prediction import Eps
from ..tokenizers.clip import ClipTokenizer
from .base import Conditioning, Family, LatentFormat
from .text import weigh


def encode(
    clip: ClipText,
    tokenizer: ClipTokenizer,
    prompt: str,
    *,
    clip_skip: int | None = None,
    embeddings: Embeddings | None = None,
    comma_padding_backtrack: int = 0,
) -> Conditioning:
    """Chunks of 77 tokens, encoded one by one and joined along the sequence.

    See base.Encode. The default layer is the last.
    """
    width, first = clip.config.width, clip.config.vocabulary
    names = Vectors(embeddings, {"clip_l": width}, first) if embeddings else None
    chunks = tokenizer.chunks(
        prompt,
        pad=tokenizer.eos,
        names=names,
        comma_padding_backtrack=comma_padding_backtrack,
    )
    hidden = clip(
        mx.array([chunk.ids for chunk in chunks]),
        clip_skip=max(clip_skip or 1, 1),
        extra=names.table("clip_l") if names else None,
    ).hidden
    hidden = weigh(hidden, mx.array([chunk.weights for chunk in chunks]))
    return Conditioning(context=hidden.reshape(1, -1, width))


SD1 = Family(
    name="SD 1.x",
    size=512,
    latent=LatentFormat(
        channels=4,
        scale=0.18215,
        shift=0.0,
        rgb=(  # of stable-diffusion.cpp, for a preview
            (0.337366, 0.216344, 0.257386),
            (0.165636, 0.386828, 0.046994),
            (-0.267803, 0.237036, 0.223517),
            (-0.178022, -0.200862, -0.678514),
        ),
        rgb_bias=(-0.017478, -0.055834, -0.105825),
    ),
    prediction=Eps,
    noise=scaled_linear(),
    encode=encode,
)
