"""The `parameters` text that goes into a picture."""

import json
from collections.abc import Mapping
from typing import Any

from ..request import PICTURES, Request
from . import infotext, settings

JSON_KEY = "MLXSD"


def parameters(
    request: Request,
    model: str,
    version: str,
    *,
    model_hash: str | None = None,
    parts: Mapping[str, str] | None = None,
    loading: Mapping[str, Any] | None = None,
) -> str:
    """The text that A1111 shows and parses: prompts, then one line of settings.

    The last setting is JSON that A1111 passes over: the whole request, exactly. The
    prompts are in it only where A1111's rules would not give them back.

    Args:
        request: with the seed, width and height that were used.
        model: the model's name; version: of this program.
        model_hash: as `model_hash` gives it; None is not written.
        parts: "VAE", "Unet" or "TE" → the name of a part in a file of its own.
        loading: load()'s arguments that decide over pixels, such as dtype; JSON-able.
    """
    record = request.settings()
    del record["batch_count"]  # a file holds one picture, with a seed of its own
    pictures = [name for name in PICTURES if getattr(request, name) is not None]
    prompts = {name: record.pop(name) for name in ("prompt", "negative_prompt")}
    labels = settings.written(request)
    if model_hash is not None:
        labels["Model hash"] = model_hash
    labels |= {"Model": model, **(parts or {}), "Version": f"mlx-sd {version}"}

    def written(record: dict[str, Any]) -> str:
        values: dict[str, Any] = {"request": record, "loading": dict(loading or {})}
        # What it started from is named alone: it may be large, or nobody's business.
        values |= {"pictures": pictures} if pictures else {}
        labels[JSON_KEY] = json.dumps(values, separators=(",", ":"))
        text = infotext.write(infotext.Infotext(**prompts, settings=labels))
        # What is no Unicode, such as a shell's stray bytes, is in the JSON alone.
        return text.encode("utf-8", "replace").decode()

    text = written(record)
    back = infotext.parse(text)
    if prompts == {"prompt": back.prompt, "negative_prompt": back.negative_prompt}:
        return text
    return written(prompts | record)
