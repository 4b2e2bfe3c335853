"""How a diffusers folder is laid out."""

from collections.abc import Collection

from .errors import CheckpointError

# Part of a model → its folder.
FOLDERS = {"unet": "unet", "vae": "vae", "clip_l": "text_encoder"}

_STEMS = ("diffusion_pytorch_model", "model")
_FULL = (".safetensors", ".safetensors.index.json")
_HALF = (".fp16.safetensors", ".safetensors.index.fp16.json")


def choose_weights(
    names: Collection[str], where: str, prefer_half: bool = False
) -> str:
    """The weight file, or index of shards, among the files of one part's folder.

    Raises: CheckpointError if there is none.
    """
    endings = _HALF + _FULL if prefer_half else _FULL + _HALF
    wanted = [stem + ending for ending in endings for stem in _STEMS]
    for name in wanted:
        if name in names:
            return name
    raise CheckpointError(f"{where}: no safetensors weights, such as {wanted[0]}")
