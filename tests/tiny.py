"""Tensors of tiny autoencoders, under every name that files give them.

The lists are those of golden/taesd.json. Each is told by its coder, the number of its
layer as the authors count, and what follows.
"""

import json
from pathlib import Path

import seeded

NAMES = json.loads((Path(__file__).parent / "golden/taesd.json").read_text())
Key = tuple[str, int, str]

LAYOUTS = {  # → name of a layer, whose number the authors and diffusers call m and n
    "authors": "{coder}.{m}",
    "ComfyUI": "taesd_{coder}.{m}",
    "diffusers": "{coder}.layers.{n}",
    "stable-diffusion.cpp": "tae.{coder}.layers.{n}",
    "in place of a VAE": "vae.{coder}.layers.{n}",
    "in place of an LDM VAE": "first_stage_model.{coder}.layers.{n}",
    "a file by itself": "{m}",
}


def keys(kind: str) -> dict[str, Key]:
    """A golden file's name → what it tells."""
    found = {}
    for name in NAMES[kind]:
        coder, *parts = name.split(".")
        clamp = parts[0] == "layers" and coder == "decoder"  # not counted there
        number, *leaf = parts[parts[0] == "layers" :]
        found[name] = coder, int(number) + clamp, ".".join(leaf)
    return found


def name(key: Key, layout: str) -> str:
    coder, number, leaf = key
    layer = LAYOUTS[layout].format(
        coder=coder, m=number, n=number - (coder == "decoder")
    )
    return f"{layer}.{leaf}"


def shapes(kind: str, layout: str, *coders: str) -> dict[str, tuple[int, ...]]:
    """The file in a layout, of both coders if none is given."""
    return {
        name(key, layout): tuple(NAMES[kind][golden])
        for golden, key in keys(kind).items()
        if key[0] in (coders or ("encoder", "decoder"))
    }


def weights(kind: str, layout: str, *coders: str):
    """What the golden outputs were made with."""
    tensors = seeded.weights({n: tuple(shape) for n, shape in NAMES[kind].items()})
    return {
        name(key, layout): tensors[golden]
        for golden, key in keys(kind).items()
        if key[0] in (coders or ("encoder", "decoder"))
    }
