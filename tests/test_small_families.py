"""Whole pictures of narrow models of each family against diffusers' pipelines."""

import numpy as np
import pytest
from narrow_table import (
    DECIBELS,
    GOLDEN,
    LATENT,
    error,
    measured,
    opened,
    request,
    write,
)
from small_families import CASES, STATES

QUICK = "sd2", "sd2_v"  # in the default run


def marked(names):
    slow = pytest.mark.slow
    return [n if n in QUICK else pytest.param(n, marks=slow) for n in names]


@pytest.mark.parametrize("name", marked(CASES))
def test_pictures_are_those_of_diffusers(name, tmp_path):
    case = CASES[name]
    pipeline = opened(case, write(case, tmp_path / "model"))
    assert pipeline.source.kind.name == case.kind
    latent, decibels = measured(pipeline, name)
    assert latent < LATENT and decibels >= DECIBELS


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "GGUF f16", "parts"])
@pytest.mark.parametrize("name", ["sd2", "sdxl"])
def test_other_files_give_them_too(name, form, tmp_path):
    case = CASES[name]
    pipeline = opened(case, write(case, tmp_path / "model"), form)
    assert pipeline.source.kind.name == case.kind
    latent, decibels = measured(pipeline, name)
    assert latent < LATENT and decibels >= DECIBELS


@pytest.mark.parametrize("name", marked(STATES))
def test_text_states_and_vectors_are_those_of_diffusers(name, tmp_path):
    case, golden = CASES[name], np.load(GOLDEN)
    pipeline = opened(case, write(case, tmp_path / "model"))
    prompts = pipeline.prompts(pipeline.resolve(request(case)))
    texts = [prompts.conds(0)[0][0], prompts.uncond(0)]
    for i, text in enumerate(texts):
        expected = golden[f"{name}_context"][i : i + 1]
        assert np.abs(np.array(text.context)[..., ::16] - expected).max() < 1e-4
        if f"{name}_vector" in golden:
            assert error(text.vector, golden[f"{name}_vector"][i : i + 1]) < 1e-5
        else:
            assert text.vector is None
