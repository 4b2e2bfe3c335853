"""ComfyUI's graphs: what is followed, and what is named instead."""

import copy
import json
from pathlib import Path

import pytest

from mlx_sd.metadata import to_request_fields
from mlx_sd.metadata.chunks import texts
from mlx_sd.metadata.comfyui import recipe

GOLDEN = Path(__file__).parent / "golden" / "metadata" / "comfyui.png"


@pytest.fixture
def graph() -> dict:
    """KSampler 3, loader 4, latent 5, prompts 6 and 7; LoRA 10, clip skip 11."""
    _, found = texts(GOLDEN)
    return copy.deepcopy(json.loads(found[0].text))


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def followed(graph: dict):
    return recipe({"prompt": json.dumps(graph)})


def test_first_noise_is_torchs_on_the_cpu(graph):
    fields, _ = to_request_fields(followed(graph))
    assert fields["rng"] == "cpu" and fields["cfg_scale"] == 8.0
    assert (fields["sampling_method"], fields["scheduler"]) == ("dpm++2m", "karras")


def test_prompt_is_preferred_to_the_workflow_unless_broken(graph):
    _, found = texts(GOLDEN)
    drawn = found[1].text
    graph["3"]["inputs"]["steps"] = 99
    both = recipe({"prompt": json.dumps(graph), "workflow": drawn})
    assert both.settings["Steps"] == "99"
    spare = recipe({"prompt": "{", "workflow": drawn})
    assert spare.settings["Steps"] == "20" and "prompt" in spare.notes[0]


def test_first_of_two_samplers_is_taken_and_the_other_named(graph):
    graph["20"] = node("LatentUpscale", samples=["3", 0], width=1024, height=1536)
    second = copy.deepcopy(graph["3"])
    second["inputs"] |= {"latent_image": ["20", 0], "denoise": 0.5, "seed": 1}
    found = followed({"21": second, **graph})
    assert found.settings["Seed"] == "156680208700286"
    assert "KSampler (node 21): one more sampler" in found.notes
    assert not any("LatentUpscale" in note for note in found.notes)


def test_picture_from_a_picture_has_no_size_and_says_so(graph):
    graph["5"] = node("VAEEncode", pixels=["30", 0], vae=["4", 2])
    graph["3"]["inputs"]["denoise"] = 0.6
    found = followed(graph)
    assert "Size" not in found.settings and found.settings["Steps"] == "20"
    assert any("latent_image" in n and "VAEEncode" in n for n in found.notes)
    assert "KSampler (node 3): denoise 0.6" in found.notes


def test_prompts_of_several_parts_are_named_not_guessed(graph):
    graph["40"] = node("ConditioningCombine", conditioning_1=["6", 0])
    graph["3"]["inputs"]["positive"] = ["40", 0]
    found = followed(graph)
    assert found.prompt == "" and found.negative_prompt == "text, watermark"
    assert any("positive" in n and "ConditioningCombine" in n for n in found.notes)


def test_nodes_between_are_passed_and_named(graph):
    graph["40"] = node("ConditioningSetArea", conditioning=["6", 0], width=64)
    graph["3"]["inputs"]["positive"] = ["40", 0]
    found = followed(graph)
    assert found.prompt == "beautiful scenery, galaxy bottle"
    assert any("ConditioningSetArea (node 40)" in note for note in found.notes)


def test_advanced_sampler_that_does_a_part_says_so(graph):
    inputs = graph["3"]["inputs"]
    inputs["noise_seed"] = ["50", 0]
    del inputs["seed"], inputs["denoise"]
    inputs |= {"start_at_step": 0, "end_at_step": 12, "add_noise": "enable"}
    graph["3"]["class_type"] = "KSamplerAdvanced"
    graph["50"] = node("PrimitiveInt", value=77)
    found = followed(graph)
    assert found.settings["Seed"] == "77"
    assert "KSamplerAdvanced (node 3): end_at_step 12" in found.notes
    assert not any("start_at_step" in note for note in found.notes)


def test_value_that_is_computed_is_named(graph):
    graph["3"]["inputs"]["steps"] = ["60", 0]
    graph["60"] = node("Magic", a=["61", 0])
    found = followed(graph)
    assert "Steps" not in found.settings
    assert "KSampler (node 3): its steps cannot be followed" in found.notes


def test_different_layers_for_the_prompts_are_named(graph):
    graph["7"]["inputs"]["clip"] = ["4", 1]
    assert any("different layers" in note for note in followed(graph).notes)
