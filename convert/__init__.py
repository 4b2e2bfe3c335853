"""Weight files of other programs: read, recognised, and written.

`convert` is the way in for programs; the command is `mlx-sd convert`.
"""

from collections.abc import Callable
from pathlib import Path

__all__ = ["convert"]


def convert(
    src: str | Path | None,
    dst: str | Path,
    *,
    type: str | None = None,
    tensor_type_rules: str | None = None,
    names: str | None = None,
    force: bool = False,
    on_progress: Callable[[int, int], object] | None = None,
    **parts: str | Path | None,
) -> None:
    """Write a model in another format, type or naming.

    Args:
        src: a weight file, a diffusers folder, or a Hugging Face id; None if the parts
            are the whole model.
        dst: a `.safetensors` or `.gguf` file, or a new folder for diffusers. It appears
            when it is whole, and not at all after an error.
        type: what to store weights in: "f32", "f16", "bf16" and, in GGUF, the types of
            type_rules.TYPES; None: what they are stored in now. Which tensors keep
            theirs nevertheless: see type_rules.keeps_type.
        tensor_type_rules: "regex=type,…" for names as they are written; the first that
            is found in a name counts, before `type`.
        names: "ldm", as single files have them, or "diffusers"; None: "ldm" in files.
        force: replace what is at `dst`.
        on_progress: called with the bytes written so far, and all there will be.
        parts: `diffusion_model`, `clip_l`, `clip_g`, `vae`, `taesd`: files or folders,
            each of which takes the place of the model's own part.

    Raises: ConfigError for arguments that make no sense; CheckpointError if the source
        cannot be read or the destination not be written.
    """
    from ..opening import open_source  # which itself imports modules of this package
    from .conversion import convert_source
    from .destination import destination

    wanted = destination(Path(dst), type, tensor_type_rules, names, force)
    source = open_source(src, prediction=None, taesd_preview_only=False, **parts)
    convert_source(source, wanted, on_progress or (lambda done, total: None))
