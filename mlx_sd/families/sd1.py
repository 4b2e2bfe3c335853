"""Stable Diffusion 1.x: CLIP-L text, noise prediction, 512 x 512 pixels."""

import mlx.core as mx

from ..models.clip import ClipText
from ..sampling.prediction import Eps, scaled_linear
from ..tokenizers.clip import ClipTokenizer
from .base import Conditioning, Family, LatentFormat


def encode(clip: ClipText, tokenizer: ClipTokenizer, prompt: str) -> Conditioning:
    """Chunks of 77 tokens, encoded one by one and joined along the sequence."""
    chunks = mx.array(tokenizer.chunks(prompt, pad=tokenizer.eos))
    hidden = clip(chunks).hidden
    return Conditioning(context=hidden.reshape(1, -1, hidden.shape[-1]))


SD1 = Family(
    name="SD 1.x",
    size=512,
    latent=LatentFormat(channels=4, scale=0.18215, shift=0.0),
    prediction=Eps,
    noise=scaled_linear(),
    encode=encode,
)
