"""ComfyUI's graphs: from the sampler back to the prompts, the size and the model.

A graph can compute anything; what is followed here is what text-to-image needs, and
every node on the way that changes the picture in another manner is named in the notes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .recipe import Recipe
from .settings import text

KEYS = ("prompt", "workflow")  # as it runs, and as it is drawn
NODES = 5_000

_SAMPLERS = ("KSampler", "KSamplerAdvanced")
_LATENTS = ("EmptyLatentImage", "EmptySD3LatentImage")
_LOADERS = ("CheckpointLoaderSimple", "CheckpointLoader")
_IDLE = ("Reroute",)
# Where a node takes in what it hands on, by what is looked for.
_VIA = {
    "latent_image": ("latent_image", "samples", "latent", ""),
    "model": ("model", ""),
    "clip": ("clip", ""),
}
_CONDITIONING = ("conditioning", "")
_VALUES = ("value", "text", "string", "int", "seed", "noise_seed")
# What a sampler that does the whole work by itself says of it, or leaves out.
_WHOLE = {
    "denoise": 1,
    "add_noise": "enable",
    "start_at_step": 0,
    "end_at_step": 10_000,
    "return_with_leftover_noise": "disable",
}
# In a workflow a node's values have no names; theirs in the order of its class.
_SEED = ("seed", "control_after_generate")
_COMMON = ("steps", "cfg", "sampler_name", "scheduler")
_WIDGETS: dict[str, Sequence[str]] = {
    "KSampler": (*_SEED, *_COMMON, "denoise"),
    "KSamplerAdvanced": (
        *("add_noise", "noise_seed", "control_after_generate", *_COMMON),
        *("start_at_step", "end_at_step", "return_with_leftover_noise"),
    ),
    "CLIPTextEncode": ("text",),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "PrimitiveNode": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveInt": ("value",),
}
_BROKEN = (ValueError, RecursionError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Node:
    name: str
    kind: str
    inputs: Mapping[str, Any]  # values; or [name of a node, number of its output]

    def __str__(self) -> str:
        return f"{self.kind:.60} (node {self.name:.20})"


def recipe(texts: Mapping[str, str]) -> Recipe | None:
    """What the graph under "prompt", or else the one under "workflow", would paint.

    None if neither is a graph.
    """
    notes = []
    for key, nodes_of in (("prompt", _of_prompt), ("workflow", _of_workflow)):
        if key not in texts:
            continue
        try:
            nodes = nodes_of(json.loads(texts[key]))
        except _BROKEN:
            notes.append(f"{key}: no graph of ComfyUI that can be read")
            continue
        if nodes and len(nodes) <= NODES:
            return _Graph(nodes, notes).recipe()
        if nodes:
            notes.append(f"{key}: more than {NODES} nodes; none is followed")
    return Recipe("ComfyUI", "", "", {}, notes=tuple(notes)) if notes else None


def _of_prompt(graph: Any) -> dict[str, Node]:
    return {
        name: Node(name, str(node["class_type"]), dict(node["inputs"]))
        for name, node in graph.items()
    }


def _of_workflow(graph: Any) -> dict[str, Node]:
    """Links are rows of number, node, output, node, input, type."""
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    nodes = {}
    for node in graph["nodes"]:
        values = node.get("widgets_values") or ()
        if isinstance(values, dict):  # some nodes name theirs after all
            inputs = dict(values)
        else:
            names = _WIDGETS.get(node["type"], ())
            inputs = dict(zip(names, values, strict=False))
        for entry in node.get("inputs") or ():
            if entry.get("link") in sources:
                inputs[entry["name"]] = sources[entry["link"]]
        name = str(node["id"])
        nodes[name] = Node(name, str(node["type"]), inputs)
    return nodes


class _Graph:
    def __init__(self, nodes: Mapping[str, Node], notes: list[str]):
        self.nodes = nodes
        self.notes = notes

    def recipe(self) -> Recipe:
        sampler = self._start()
        if sampler is None:
            self.notes.append(f"no {' or '.join(_SAMPLERS)} node to follow")
            return Recipe("ComfyUI", "", "", {}, notes=tuple(self.notes))
        positive, skip = self._text(sampler, "positive")
        negative, other_skip = self._text(sampler, "negative")
        if skip != other_skip:
            self.notes.append("the prompts stop at different layers of the encoder")
        latent = self._find(sampler, "latent_image", _LATENTS)
        model = self._find(sampler, "model", _LOADERS)
        seed = "seed" if "seed" in sampler.inputs else "noise_seed"
        labels = {
            "Steps": self._value(sampler, "steps"),
            "Sampler": self._value(sampler, "sampler_name"),
            "Schedule type": self._value(sampler, "scheduler"),
            "CFG scale": self._value(sampler, "cfg"),
            "Seed": self._value(sampler, seed),
            "Model": model and self._value(model, "ckpt_name"),
            "Clip skip": skip,
            "RNG": "CPU",  # ComfyUI draws the first noise there
        }
        if latent is not None:
            size = [self._value(latent, side) for side in ("width", "height")]
            labels["Size"] = None if None in size else f"{size[0]}x{size[1]}"
        for name, usual in _WHOLE.items():
            if (value := sampler.inputs.get(name, usual)) != usual:
                self.notes.append(f"{sampler}: {name} {text(value):.40}")
        settings = {label: text(v) for label, v in labels.items() if v is not None}
        notes = tuple(dict.fromkeys(self.notes))  # each once, in order
        return Recipe("ComfyUI", positive, negative, settings, notes=notes)

    def _start(self) -> Node | None:
        """The sampler that starts from an empty latent, or else the first."""
        samplers = [n for n in self.nodes.values() if n.kind in _SAMPLERS]
        starting = []
        for sampler in samplers:
            for node in self._path(sampler, "latent_image"):
                if node.kind in _LATENTS:
                    starting.append(sampler)
                if node.kind in (*_LATENTS, *_SAMPLERS):
                    break
        start = next(iter(starting or samplers), None)
        others = [sampler for sampler in samplers if sampler is not start]
        self.notes += [f"{other}: one more sampler" for other in others[:10]]
        return start

    def _text(self, sampler: Node, side: str) -> tuple[str, int | None]:
        """The prompt, and the layer that the encoder stops at, counted from its end."""
        encoder = self._find(sampler, side, ("CLIPTextEncode",))
        if encoder is None:
            return "", None
        skip = None
        for node in self._path(encoder, "clip"):
            if node.kind in _LOADERS:
                break
            if node.kind == "CLIPSetLastLayer":
                layer = self._value(node, "stop_at_clip_layer")
                skip = -layer if isinstance(layer, int) else None
            elif node.kind not in _IDLE:
                self.notes.append(f"{node}: its change to the text encoder")
        value = self._value(encoder, "text")
        return ("" if value is None else str(value)), skip

    def _find(self, start: Node, name: str, kinds: Sequence[str]) -> Node | None:
        """The node that an input comes from in the end; those between are noted."""
        end = start
        for end in self._path(start, name):
            if end.kind in kinds:
                return end
            if end.kind not in _IDLE:
                self.notes.append(f"{end}: its change to the {name}")
        self.notes.append(f"{start}: its {name} cannot be followed beyond {end}")
        return None

    def _path(self, start: Node, name: str) -> Iterator[Node]:
        """The nodes behind an input, nearest first, each once."""
        seen = set()
        node = self._behind(start.inputs.get(name))
        while node is not None and node.name not in seen:
            seen.add(node.name)
            yield node
            links = (node.inputs.get(via) for via in _VIA.get(name, _CONDITIONING))
            behind = (self._behind(link) for link in links)
            node = next((n for n in behind if n is not None), None)

    def _value(self, start: Node, name: str) -> str | int | float | None:
        """A value, also one that another node supplies."""
        value, seen = start.inputs.get(name), set()
        while (node := self._behind(value)) is not None and node.name not in seen:
            seen.add(node.name)
            found = (node.inputs.get(key) for key in (name, *_VALUES))
            value = next((v for v in found if v is not None), None)
        if isinstance(value, str | int | float):
            return value
        self.notes.append(f"{start}: its {name} cannot be followed")
        return None

    def _behind(self, link: Any) -> Node | None:
        """The node that a link names, if it is a link."""
        if isinstance(link, list) and len(link) == 2 and isinstance(link[0], str | int):
            return self.nodes.get(str(link[0]))
        return None
