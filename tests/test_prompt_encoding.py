"""Weighted prompts against transformers' states and A1111's formula."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import seeded
from test_tokenizer import write_small_tokenizer

from mlx_sd.build import build
from mlx_sd.convert.detect import identify
from mlx_sd.convert.readers import read_file
from mlx_sd.embeddings import Embeddings
from mlx_sd.errors import ConfigError
from mlx_sd.families import FAMILIES
from mlx_sd.families.text import weigh
from mlx_sd.tokenizers import ClipTokenizer

GOLDEN = np.load(Path(__file__).parent / "golden/encodings.npz")
CASES = json.loads(str(GOLDEN["cases"]))
BOUND = 1e-5  # relative; the reference computes in float64


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The small text encoder and its tokenizer."""
    folder = tmp_path_factory.mktemp("text")
    seeded.save(folder / "small.safetensors", seeded.small_shapes())
    parts = identify(read_file(folder / "small.safetensors")).parts
    clip = build("clip_l", parts["clip_l"], mx.float32)
    path = write_small_tokenizer(folder / "tokenizer")
    return {"clip_l": clip}, ClipTokenizer.from_folder(path)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    for name in ("toy", "dog"):
        array = mx.array(GOLDEN[name])
        mx.save_safetensors(str(folder / f"{name}.safetensors"), {"emb_params": array})
    return Embeddings(folder, "the small model")


def encode(text, prompt, **options) -> np.ndarray:
    return np.array(FAMILIES["sd1"].encode(*text, prompt, **options).context)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_states_are_those_of_transformers(number, text, embeddings):
    prompt, skip = CASES[number]
    found = encode(text, prompt, clip_skip=skip, embeddings=embeddings)[..., ::4]
    expected = GOLDEN[f"states_{number}"]
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) < BOUND * np.linalg.norm(expected)


def test_the_default_layer_is_the_last(text):
    last = encode(text, "a cat", clip_skip=1)
    for default in (None, 0, -1):
        assert np.array_equal(encode(text, "a cat", clip_skip=default), last)
    assert not np.array_equal(encode(text, "a cat", clip_skip=2), last)
    with pytest.raises(ConfigError, match="clip skip 3"):
        encode(text, "a cat", clip_skip=3)


def test_chunks_are_encoded_apart(text):
    both = encode(text, "(a red:1.3) cat BREAK a [dog]")
    first, second = encode(text, "(a red:1.3) cat"), encode(text, "a [dog]")
    assert np.allclose(both, np.concatenate([first, second], axis=1), atol=1e-5)


def test_prompts_may_backtrack_to_a_comma(text):
    prompt = "a," * 37 + " b c d"
    plain = encode(text, prompt)
    assert np.array_equal(encode(text, prompt, comma_padding_backtrack=0), plain)
    moved = encode(text, prompt, comma_padding_backtrack=20)
    by_hand = encode(text, "a," * 37 + " BREAK b c d")
    assert np.array_equal(moved, by_hand) and not np.array_equal(moved, plain)


def test_weights_keep_the_mean_of_each_chunk():
    rng = np.random.default_rng(0)
    states = rng.normal(0.1, size=(3, 5, 8))
    weights = rng.uniform(0.5, 1.5, size=(3, 5))
    weights[1] = 1
    found = np.array(weigh(*(mx.array(a.astype("f4")) for a in (states, weights))))
    expected = states * weights[..., None]
    means = expected.mean(axis=(1, 2)) / states.mean(axis=(1, 2))
    assert np.allclose(found, expected / means[:, None, None], atol=1e-5)
    assert np.array_equal(found[1], states[1].astype("f4"))


def test_a_mean_of_zero_leaves_numbers():
    states = mx.array([[[1.0, -1.0], [2.0, -2.0]]])
    found = weigh(states, mx.array([[1.0, 3.0]]))
    assert found.tolist() == [[[1, -1], [6, -6]]]


def test_weights_in_half_precision_are_applied_in_single(text):
    states = mx.random.normal((1, 77, 64), key=mx.random.key(0)) + 0.01
    weights = mx.array([[1.0, 1.7] + [1.0] * 75])
    half = states.astype(mx.float16)
    found = weigh(half, weights)
    exact = weigh(half.astype(mx.float32), weights)
    assert found.dtype == mx.float16
    assert mx.allclose(found, exact, rtol=2e-3, atol=1e-4)
