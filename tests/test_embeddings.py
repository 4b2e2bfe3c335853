"""Textual inversion files: what they hold, where they are named, what fits."""

import logging
import shutil
from pathlib import Path

import gguf_parts
import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.embeddings import Embeddings, Vectors
from mlx_sd.errors import CheckpointError, ConfigError
from mlx_sd.tokenizers import ClipTokenizer

FILES = Path(__file__).parent / "golden/embeddings"
SD1, SDXL = {"clip_l": 8}, {"clip_l": 8, "clip_g": 12}
VECTORS = np.arange(16, dtype=np.float32).reshape(2, 8) / 8 - 1  # in every golden file


def save(folder: Path, name: str, **arrays: np.ndarray):
    path = folder / f"{name}.safetensors"
    mx.save_safetensors(str(path), {n: mx.array(a) for n, a in arrays.items()})


def named(folder: Path, text: str) -> list[str]:
    return [name for _, name in Embeddings(folder, "m").split(text) if name]


@pytest.fixture
def cats(tmp_path):
    for name in ("cat", "Bad-Hands", "bad", "cat v2", "émile"):
        save(tmp_path, name, emb_params=VECTORS)
    return tmp_path


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a cat, sitting", ["cat"]),
        ("CAT Cat", ["cat", "cat"]),
        ("concatenate cats cat_ cat5 bobcat", []),
        ("bad-hands bad hands", ["bad-hands", "bad"]),
        ("cat v2 cat v22", ["cat v2", "cat"]),
        ("Émile émilex", ["émile"]),
        ("<cat>", ["cat"]),
        ("", []),
    ],
)
def test_names_are_whole_words_in_any_case(cats, text, expected):
    assert named(cats, text) == expected


def test_the_text_around_names_stays(cats):
    text = "a cat, Bad-Hands!"
    parts = list(Embeddings(cats, "m").split(text))
    assert "".join(part for part, _ in parts) == text


def test_other_files_are_no_names(tmp_path):
    save(tmp_path, "cat", emb_params=VECTORS)
    (tmp_path / "dog.txt").write_text("a note")
    (tmp_path / "sub").mkdir()
    save(tmp_path / "sub", "cow", emb_params=VECTORS)
    assert named(tmp_path, "cat dog cow") == ["cat"]
    assert named(tmp_path / "sub", "cat dog cow") == ["cow"]


def test_an_empty_folder_names_nothing(tmp_path):
    assert list(Embeddings(tmp_path, "m").split("a cat")) == [("a cat", None)]


@pytest.mark.parametrize("path", sorted(FILES.iterdir()), ids=lambda path: path.name)
def test_every_kind_of_file_is_read(path, tmp_path):
    shutil.copy(path, tmp_path)
    widths = SDXL if "sdxl" in path.stem else SD1
    found = Embeddings(tmp_path, "m").read(path.stem, widths)
    expected = VECTORS[:1] if "one" in path.stem else VECTORS
    assert np.array_equal(found["clip_l"], expected)
    if "sdxl" in path.stem:
        assert np.array_equal(found["clip_g"], np.tile(VECTORS[:, :4], 3))


def test_gguf_files_are_read(tmp_path):
    data = VECTORS.tobytes()
    description = gguf_parts.tensor("emb_params", (8, 2))
    (tmp_path / "cat.gguf").write_bytes(gguf_parts.gguf(description, data=data))
    assert np.array_equal(Embeddings(tmp_path, "m").read("cat", SD1)["clip_l"], VECTORS)


@pytest.mark.parametrize(
    "arrays, widths, said",
    [
        ({"emb_params": VECTORS[:, :6]}, SD1, "vectors 6 wide do not fit sd15.*8 wide"),
        ({"emb_params": VECTORS}, SDXL, "made for a model with one text encoder"),
        (
            {"clip_l": VECTORS, "clip_g": VECTORS},
            SD1,
            "made for SDXL, which sd15 is not",
        ),
        (
            {"clip_l": VECTORS, "clip_g": VECTORS},
            SDXL,
            "8 wide do not fit sd15.*12 wide",
        ),
        (
            {"clip_l": VECTORS, "clip_g": np.zeros((1, 12), "f4")},
            SDXL,
            "not as many vectors",
        ),
        ({"a": VECTORS, "b": VECTORS}, SD1, "2 tensors, first 'a'"),
        ({"a": np.zeros((2, 2, 8), "f4")}, SD1, "no list of vectors"),
        ({"a": np.zeros((0, 8), "f4")}, SD1, "no list of vectors"),
        ({"a": np.zeros((76, 8), "f4")}, SD1, "76 vectors; .* holds 75 at most"),
        ({"a": VECTORS * np.nan}, SD1, "a holds what are no numbers"),
        ({"a": np.zeros((2, 8), "i4")}, SD1, "a holds what are no numbers"),
    ],
)
def test_what_does_not_fit_names_file_and_model(tmp_path, arrays, widths, said):
    save(tmp_path, "cat", **arrays)
    with pytest.raises(CheckpointError, match=said) as caught:
        Embeddings(tmp_path, "sd15").read("cat", widths)
    assert str(tmp_path / "cat.safetensors") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_file_matters_only_where_it_is_named(cats):
    (cats / "broken.pt").write_bytes(b"not a checkpoint")
    names = Vectors(Embeddings(cats, "m"), SD1, 100)
    assert [*names("a cat")] == ["a ", range(100, 102), ""]
    with pytest.raises(CheckpointError, match="broken.pt"):
        list(names("a broken cat"))


def test_two_files_of_one_name_are_an_error_where_it_is_named(cats):
    shutil.copy(cats / "cat.safetensors", cats / "CAT.pt")
    with pytest.raises(CheckpointError, match="have one name"):
        list(Vectors(Embeddings(cats, "m"), SD1, 100)("a cat"))


@pytest.mark.parametrize("name", ["missing", "cat.safetensors"])
def test_a_folder_that_is_none_is_misuse(cats, name):
    with pytest.raises(ConfigError, match=f"--embd-dir .*{name}: not a folder"):
        Embeddings(cats / name, "m")


def test_ids_follow_the_vocabulary_and_are_reported(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    save(tmp_path, "cat", emb_params=VECTORS)
    save(tmp_path, "dog", emb_params=-VECTORS[0])
    names = Vectors(Embeddings(tmp_path, "m"), SD1, 49408)
    assert names.table("clip_l") is None
    (chunk,) = ClipTokenizer.standard().chunks("dog (cat:1.2) dog", names=names)
    assert chunk.ids[1:6] == [49408, 49409, 49410, 49408, 49407]
    assert chunk.weights[1:5] == [1, 1.2, 1.2, 1]
    expected = np.concatenate([-VECTORS[:1], VECTORS])
    assert np.array_equal(names.table("clip_l"), expected)
    assert caplog.messages == [
        "embedding 'dog' is used; vectors: 1",
        "embedding 'cat' is used; vectors: 2",
    ]


def test_both_encoders_of_sdxl_have_the_same_ids(tmp_path):
    big = np.ones((2, 12), "f4")
    save(tmp_path, "cat", clip_l=VECTORS, clip_g=big)
    names = Vectors(Embeddings(tmp_path, "m"), SDXL, 100)
    assert range(100, 102) in list(names("cat"))
    assert np.array_equal(names.table("clip_l"), VECTORS)
    assert np.array_equal(names.table("clip_g"), big)


def test_an_embedding_stays_in_one_chunk(tmp_path):
    save(tmp_path, "cat", emb_params=VECTORS)
    names = Vectors(Embeddings(tmp_path, "m"), SD1, 49408)
    first, second = ClipTokenizer.standard().chunks("dog " * 74 + "cat", names=names)
    assert first.ids[75:] == [49407] * 2 and second.ids[1:4] == [49408, 49409, 49407]
