"""What goes into a single file: a model's parts under one scheme of names, and more."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import CheckpointError, ConfigError
from ..folder import FOLDERS
from .detect import Contents, prefix_of
from .layouts import ROWS, SAME
from .parameter import Parameter, Parameters
from .plan import Planner
from .readers import Entry, read_metadata
from .recode import Tensor
from .rules import Outgoing, outgoing
from .source import Source

log = logging.getLogger(__name__)

_EDM = {"min": 0.002, "max": 120.0}  # CosXL's noise levels
_TOLD = ("prediction_type", "rescale_betas_zero_snr")


def single_file(source: Source, scheme: str | None, planner: Planner) -> list[Tensor]:
    """The tensors to write: all but those that only training needs.

    Args:
        scheme: of names, a key of SCHEMES; None: as single files have them.

    Raises: ConfigError for a file of something else, such as a ControlNet, which
        `scheme` cannot rename; CheckpointError if nothing can be written.
    """
    contents = source.contents
    if _is_foreign(contents):
        if scheme:
            first = next(iter(contents.unknown))
            raise ConfigError(
                f"{source.path}: its tensors can only keep their names, since it is no "
                f"part of a model that we know; the first unknown one is {first}"
            )
        tensors = _as_they_are(contents, planner)
    else:
        tensors = _renamed(source, scheme or "ldm", planner)
    for name, entry in (_markers(source) | contents.markers).items():
        if 0 in entry.shape:  # which GGUF has no place for; the name is what counts
            entry = _number(entry.path, name, 1)
        tensors += planner.tensor(name, [Parameter(entry, SAME)], is_weight=False)
    for name, entry in contents.unknown.items():
        name = name.replace("/", ".", 1)  # the folder that it comes from
        tensors += planner.tensor(name, [Parameter(entry, SAME)])
    if not tensors:
        raise CheckpointError(
            f"{source.path}: holds no tensor that can be written; see what it holds "
            f"with: mlx-sd inspect {source.path}"
        )
    (name, times), *_ = Counter(tensor.name for tensor in tensors).most_common(1)
    if times > 1:
        raise CheckpointError(f"{source.path}: holds {name} under two names")
    return tensors


def _is_lone(contents: Contents) -> bool:
    """Whether these are tensors of one kind, whose names do not say of which."""
    named = any(
        prefix_of(parameter.entry.name)
        for parameters in contents.parts.values()
        for parameter in parameters.values()
    )
    return len(contents.parts) == 1 and not named


def _is_foreign(contents: Contents) -> bool:
    """Whether they merely resemble a part of a model, as a ControlNet does."""
    return bool(contents.unknown) and (_is_lone(contents) or not contents.parts)


def _as_they_are(contents: Contents, planner: Planner) -> list[Tensor]:
    """The parameters under the names that they have now."""
    tensors: list[Tensor] = []
    for parameters in (*contents.parts.values(), *contents.spare.values()):
        shared: dict[str, list[Parameter]] = {}
        for parameter in parameters.values():
            shared.setdefault(parameter.entry.name, []).append(parameter)
        for name, shares in shared.items():
            layout = ROWS if len(shares) > 1 else SAME
            same = [Parameter(share.entry, layout) for share in shares]
            tensors += planner.tensor(name, same, layout)
    return tensors


def _renamed(source: Source, scheme: str, planner: Planner) -> list[Tensor]:
    contents = source.contents
    base = source.kind.base if "unet" in contents.parts else None
    tensors: list[Tensor] = []
    for part, parameters in contents.parts.items():
        parameters = parameters | contents.spare.get(part, {})
        lone = _is_lone(contents)
        tensors += planner.part(
            parameters, _names(part, scheme, parameters, base, lone)
        )
    return tensors


def _names(
    part: str, scheme: str, parameters: Parameters, base: str | None, lone: bool
) -> Iterator[Outgoing]:
    """A part's tensors with their prefix, which a lone part goes without.

    A text encoder has names without a prefix from Hugging Face alone.
    """
    if lone and part.startswith("clip"):
        scheme = "diffusers"
    for out in outgoing(part, scheme, parameters, base):
        if lone:
            yield replace(out, name=out.name[len(prefix_of(out.name)) :])
        elif scheme == "diffusers":
            yield replace(out, name=f"{FOLDERS[part]}.{out.name}")
        else:
            yield out


def _markers(source: Source) -> dict[str, Entry]:
    """What a diffusers folder's settings say, as tensors that other programs know.

    ComfyUI and stable-diffusion.cpp look for them in SDXL models, and there alone.
    """
    if source.folder is None:
        return {}
    path = source.folder / "scheduler/scheduler_config.json"
    try:
        told = json.loads(path.read_text()) if path.exists() else {}
        prediction, zero = (told.get(key) for key in _TOLD)
        edm = str(told.get("_class_name")).startswith("EDM")
        bounds = [float(told.get(f"sigma_{end}", at)) for end, at in _EDM.items()]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if edm and source.kind.base == "sdxl":
        return {
            (name := f"edm_vpred.sigma_{end}"): _number(path, name, value)
            for end, value in zip(_EDM, bounds, strict=True)
        }
    found = ["v_pred"] * (prediction == "v_prediction") + ["ztsnr"] * bool(zero)
    if found and not source.kind.base.startswith("sdxl"):
        log.warning(
            "%s: predicts %s, says its scheduler, and a single file of %s cannot say; "
            "tell the program that loads it",
            source.path,
            prediction,
            source.kind.name,
        )
        return {}
    return {name: _number(path, name, 1) for name in found}


def _number(path: Path, name: str, value: float) -> Entry:
    raw = np.array([value], "<f4").view(np.uint8)
    return Entry(path, name, "F32", (1,), raw.nbytes, raw=lambda: raw)


def metadata(source: Source) -> dict[str, str]:
    """What a safetensors file says of itself: title, licence, training.

    Without hashes, which would be those of other numbers.
    """
    told = read_metadata(source.path)
    return {key: text for key, text in told.items() if "hash" not in key}
