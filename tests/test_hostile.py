"""Broken and hostile files end in one error, soon, in little memory; none runs."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from re import escape, fullmatch

import checkpoints
import pytest
from hostile import calls, examine
from process import HERE, python

from mlx_sd import CheckpointError
from mlx_sd.opening import open_source

FINDINGS = sorted((HERE / "fuzz/findings").iterdir())


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    """(case, what came of it) of all files; the folder in which nothing may happen."""
    corpus, cwd = tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("cwd")
    python("-m", "hostile", corpus)
    cases = json.loads((corpus / "cases.json").read_text())
    results = json.loads(python("-m", "hostile.examine", corpus, cwd=cwd))
    yield [(case, results[case["path"]]) for case in cases], cwd
    shutil.rmtree(corpus)  # 200 MB


def test_every_reader_meets_every_kind_of_harm(examined):
    met = Counter((case["reader"], case["kind"]) for case, _ in examined[0])
    for reader in ("safetensors", "index", "zip", "legacy", "gguf"):
        assert met[reader, "cut"] > 30 and met[reader, "damaged"] > 150
        assert met[reader, "lie"] > 20 and met[reader, "bomb"]
    assert met["zip", "call"] == met["legacy", "call"] > 40
    assert sum(met.values()) > 2000


def test_each_ends_in_one_error_that_names_the_file_or_is_read(examined):
    wrong = {
        case["path"]: result["outcome"]
        for case, result in examined[0]
        if result["outcome"].startswith("fault")
    }
    assert not wrong


def test_each_that_is_broken_is_refused_for_the_right_reason(examined):
    wrong = {
        case["path"]: result["outcome"]
        for case, result in examined[0]
        if case["says"] is not None
        and not fullmatch(f"refused: .*{escape(case['says'])}.*", result["outcome"])
    }
    assert not wrong


def test_nothing_that_a_file_asks_for_has_run(examined):
    assert list(examined[1].iterdir()) == []


def test_python_would_have_run_every_call(tmp_path):
    ran = python("-m", "hostile.calls", cwd=tmp_path).splitlines()
    assert ran == list(calls.CALLS)


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_what_fuzzing_found_is_refused(path):
    assert examine.outcome(path).startswith("refused: ")


def test_settings_nested_without_end_are_an_error(tmp_path):
    for folder in ("unet", "scheduler"):
        (tmp_path / folder).mkdir()
    shapes = {name: shape for _, _, name, shape in checkpoints.NAMES["unet"]}
    weights = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    source = open_source(checkpoints.hollow(weights, shapes).parents[1])
    settings = tmp_path / "scheduler/scheduler_config.json"
    settings.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=f"{settings}: not readable as JSON"):
        _ = source.prediction


def hang(path: Path) -> None:
    while True:
        pass


def grow(path: Path) -> None:
    bytearray(400 << 20)


def fail(path: Path) -> None:
    raise KeyError(path)


def say_nothing(path: Path) -> None:
    raise CheckpointError("broken")


def say_too_much(path: Path) -> None:
    raise CheckpointError(f"{path}: broken\nor not")


def leave(path: Path) -> None:
    sys.exit(0)


BAD = {
    hang: "OverLimit: longer than 0.2 s",
    grow: "MemoryError",
    fail: "KeyError",
    say_nothing: "not a line about the file",
    say_too_much: "not a line about the file",
    leave: "SystemExit",
}


@pytest.mark.parametrize("read", BAD, ids=lambda read: read.__name__)
def test_a_bad_reader_would_be_found(read, monkeypatch, tmp_path):
    if read is grow and sys.platform != "linux":
        pytest.skip("only Linux keeps a process from growing")
    monkeypatch.setattr(examine, "SECONDS", 0.2)
    found = examine.outcome(tmp_path / "x", read)
    assert found.startswith(f"fault: {BAD[read]}")
