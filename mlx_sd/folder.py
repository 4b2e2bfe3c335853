"""How a diffusers folder is laid out."""

from collections.abc import Collection

from .errors import CheckpointError

# Part of a model → its folder.
FOLDERS = {
    "unet": "unet",
    "vae": "vae",
    "tae": "vae",  # in its place
    "clip_l": "text_encoder",
    "clip_h": "text_encoder",
    "clip_g": "text_encoder_2",
}

# Text encoder → the folder of its tokenizer.
TOKENIZERS = {"clip_l": "tokenizer", "clip_h": "tokenizer", "clip_g": "tokenizer_2"}

# Format → what its file's names begin with, in diffusers and in transformers. The first
# is preferred: a file of the second has to be unpickled.
_STEMS = {
    "safetensors": ("diffusion_pytorch_model", "model"),
    "bin": ("diffusion_pytorch_model", "pytorch_model"),
}
_FULL = ("{stem}.{format}", "{stem}.{format}.index.json")
_HALF = ("{stem}.fp16.{format}", "{stem}.{format}.index.fp16.json")


def choose_weights(
    names: Collection[str], where: str, prefer_half: bool = False
) -> str:
    """The weight file, or index of shards, among the files of one part's folder.

    Raises: CheckpointError if there is none.
    """
    patterns = _HALF + _FULL if prefer_half else _FULL + _HALF
    wanted = [
        pattern.format(stem=stem, format=format)
        for format, stems in _STEMS.items()
        for pattern in patterns
        for stem in stems
    ]
    for name in wanted:
        if name in names:
            return name
    raise CheckpointError(f"{where}: no weights, such as {wanted[0]}")
