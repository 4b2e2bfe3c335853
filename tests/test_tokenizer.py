"""The CLIP tokenizer against transformers' ids (tests/golden/make_tokens.py)."""

import gzip
import json
import re
import shutil
import time
from pathlib import Path

import pytest

from mlx_sd.errors import CheckpointError, ConfigError
from mlx_sd.tokenizers import ClipTokenizer

GOLDEN = json.loads(
    gzip.decompress((Path(__file__).parent / "golden/tokens.json.gz").read_bytes())
)
BOS, EOS = 49406, 49407


@pytest.fixture(scope="module")
def standard():
    return ClipTokenizer.standard()


@pytest.fixture
def folder(tmp_path):
    """A vocabulary of 1000 tokens: bytes, the 486 first merges, BOS and EOS."""
    return write_small_tokenizer(tmp_path / "tokenizer")


def write_small_tokenizer(path: Path) -> Path:
    source = json.loads(ClipTokenizer.standard()._tokenizer.to_str())["model"]
    merges = [" ".join(merge) for merge in source["merges"][:486]]
    tokens = sorted(source["vocab"], key=source["vocab"].get)[: 512 + 486]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    path.mkdir()
    vocab = {token: index for index, token in enumerate(tokens)}
    (path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = "\n".join(["#version: 0.2", *merges]) + "\n"
    (path / "merges.txt").write_text(lines, encoding="utf-8")
    return path


def test_ids_equal_transformers_on_every_golden_prompt(standard):
    wrong = [text for text, ids in GOLDEN if standard.encode(text) != ids]
    assert len(GOLDEN) > 300 and wrong == []


def test_known_ids(standard):
    assert standard.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert (standard.bos, standard.eos, standard.vocab_size) == (BOS, EOS, 49408)


def test_accented_words_stay_whole(standard):
    # stable-diffusion.cpp's byte-wise split gives "caf" and "é" their own tokens.
    assert standard.encode("café") == [15304]


def test_standard_is_built_once_and_fast(standard):
    start = time.process_time()
    ClipTokenizer.standard.__wrapped__()
    # 0.08 s on two shared cores; the bound only catches a change of method.
    assert time.process_time() - start < 1
    assert ClipTokenizer.standard() is standard


@pytest.mark.parametrize(
    "words, sizes",
    [(0, [0]), (1, [1]), (75, [75]), (76, [75, 1]), (151, [75, 75, 1])],
)
def test_chunks_are_consecutive_slices_of_75(standard, words, sizes):
    chunks = standard.chunks("cat " * words)
    cat = 2368
    expected = [[BOS] + [cat] * n + [EOS] * (76 - n) for n in sizes]
    assert [chunk.ids for chunk in chunks] == expected
    assert all(chunk.weights == [1.0] * 77 for chunk in chunks)


def test_chunks_lose_and_reorder_nothing(standard):
    texts = [text for text, _ in GOLDEN if not re.search(r"<\||[\\()\[\]]|BREAK", text)]
    text = " ".join(texts)
    ids = [chunk.ids for chunk in standard.chunks(text)]
    inner = [i for chunk in ids for i in chunk[1 : chunk.index(EOS)]]
    assert len(texts) > 200 and inner == standard.encode(text)
    assert all(len(chunk) == 77 for chunk in ids)


def test_padding_id_is_the_callers(standard):
    assert standard.chunks("cat", pad=0)[0].ids == [BOS, 2368, EOS] + [0] * 74


def test_invalid_unicode_is_named(standard):
    with pytest.raises(ConfigError, match="character 5 is not valid Unicode"):
        standard.encode("caf \udce9")


def test_folder_with_the_standard_files_gives_standard_ids(standard, tmp_path):
    model = json.loads(standard._tokenizer.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    merges = "\n".join(" ".join(merge) for merge in model["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
    loaded = ClipTokenizer.from_folder(tmp_path)
    assert loaded.vocab_size == 49408
    assert all(loaded.encode(text) == ids for text, ids in GOLDEN[:100])


def test_folder_with_its_own_vocabulary(folder):
    small = ClipTokenizer.from_folder(folder)
    assert (small.bos, small.eos, small.vocab_size) == (998, 999, 1000)
    ids = small.encode("a photo of a cat, café")
    assert ids and max(ids) < 998
    assert small.chunks("")[0].ids == [998] + [999] * 76


def test_folder_with_tokenizer_json_alone(folder):
    pair = ClipTokenizer.from_folder(folder)
    pair._tokenizer.enable_padding(length=77)  # files may carry both settings
    pair._tokenizer.enable_truncation(max_length=8)
    text = pair._tokenizer.to_str()
    expected = ClipTokenizer.from_folder(folder).encode("a photo of a cat")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    (folder / "tokenizer.json").write_text(text, "utf-8")
    single = ClipTokenizer.from_folder(folder)
    assert single.encode("a photo of a cat") == expected
    assert (single.bos, single.eos, single.vocab_size) == (998, 999, 1000)


def break_missing(folder):
    shutil.rmtree(folder)


def break_vocab(folder):
    (folder / "vocab.json").unlink()


def break_json(folder):
    (folder / "vocab.json").write_text("{")


def break_merge(folder):
    (folder / "merges.txt").write_text("#version: 0.2\na b c\n")


def break_token(folder):
    (folder / "merges.txt").write_text("#version: 0.2\nno such\n")


def break_special(folder):
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    del vocab["<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps(vocab), "utf-8")


@pytest.mark.parametrize(
    "damage, said",
    [
        (break_missing, "no tokenizer here"),
        (break_vocab, "vocab.json"),
        (break_json, "broken tokenizer"),
        (break_merge, "broken tokenizer"),
        (break_token, "broken tokenizer"),
        (break_special, r"lacks <\|endoftext\|>"),
    ],
)
def test_broken_folders_are_one_line(folder, damage, said):
    damage(folder)
    with pytest.raises(CheckpointError, match=said) as caught:
        ClipTokenizer.from_folder(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
