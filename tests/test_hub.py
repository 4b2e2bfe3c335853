"""Models by Hugging Face id, from a small hub on the loopback interface."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import checkpoints
import fake_hub
import huggingface_hub
import pytest
import seeded
from huggingface_hub import constants, file_download

from mlx_sd import CheckpointError
from mlx_sd.hub import fetch, is_repo_id
from mlx_sd.opening import open_model

REPO = "painter/model"
WEIGHTS = [
    "text_encoder/model.fp16.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
]
SMALL = [
    *("model_index.json", "tokenizer/merges.txt", "tokenizer/vocab.json"),
    "unet/config.json",
]
UNWANTED = [  # as in the repository of SD 1.5
    "README.md",
    "v1-5-pruned-emaonly.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "safety_checker/model.fp16.safetensors",
    "feature_extractor/preprocessor_config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
]


def contents(folder: Path) -> fake_hub.Files:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def repository(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("repository") / "model"
    checkpoints.write_folder(folder, arrays, "fp16")
    checkpoints.write_tokenizer(folder, 1000)
    (folder / "unet/config.json").write_text('{"sample_size": 32}')
    (folder / "model_index.json").write_text("{}")
    return {**contents(folder), **dict.fromkeys(UNWANTED, b"not to be downloaded")}


@pytest.fixture
def hub(repository):
    with fake_hub.serve({REPO: repository}) as hub:
        yield hub


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    """Point the hub library, which reads the environment at import, to a server."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def point(url: str) -> None:
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        for module in (constants, file_download):  # 0.x has a copy
            name = "HUGGINGFACE_CO_URL_TEMPLATE"
            monkeypatch.setattr(module, name, template, raising=False)

    point("http://127.0.0.1:9")
    return point


@pytest.fixture
def local(hub, library):
    library(hub.url)
    return hub


def failure(repo=REPO) -> str:
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        fetch(repo)
    assert time.monotonic() - start < 5, "the library's retries take too long"
    message = str(caught.value)
    assert message.startswith(f"{repo}: ") and "\n" not in message
    return message


def test_only_what_is_needed_is_downloaded_and_only_once(local):
    source = open_model(REPO)
    assert sorted(local.downloads) == sorted(WEIGHTS + SMALL)
    assert source.sample_size == 256 and source.tokenizer.vocab_size == 1000
    assert open_model(REPO).path == source.path
    assert len(local.downloads) == len(WEIGHTS + SMALL)


@pytest.mark.parametrize(
    "error", [(404, "RepoNotFound"), (403, "GatedRepo"), (500, "")]
)
def test_the_cache_serves_what_the_hub_no_longer_does(error, local):
    path = fetch(REPO)
    local.closed[REPO] = error
    assert fetch(REPO) == path


def test_the_cache_serves_when_the_hub_is_away(local, library):
    path = fetch(REPO)
    library("http://127.0.0.1:9")
    assert fetch(REPO) == path


@pytest.mark.parametrize("kind", ["shards", "fp16 shards"])
def test_shards_are_downloaded_as_the_index_names_them(kind, local, tmp_path, arrays):
    folder = checkpoints.write_folder(tmp_path / "sharded", arrays, kind)
    needed = contents(folder)
    stray = "unet/diffusion_pytorch_model-00003-of-00003.safetensors"
    local.repos[REPO] = {**needed, stray: b"", "unet/diffusion_pytorch_model.bin": b""}
    source = open_model(REPO)
    assert sorted(local.downloads) == sorted(needed) and len(needed) == 9
    assert not source.contents.unknown


def test_a_lone_file_is_a_model(local, tmp_path):
    path = tmp_path / "lone.safetensors"
    seeded.save(path, seeded.small_shapes())
    local.repos[REPO] = {"lone.safetensors": path.read_bytes(), "README.md": b""}
    assert fetch(REPO).name == "lone.safetensors"
    assert local.downloads == ["lone.safetensors"]
    open_model(REPO)


@pytest.mark.parametrize(
    "files, reason",
    [
        (["a.safetensors", "b.safetensors"], "2 single files: a.safetensors, b.safe"),
        (["model.ckpt", "README.md"], "found none; download a file"),
        ([], "found none"),
        (["unet/model.bin"], "unet: no weights, such as"),
    ],
)
def test_a_repository_without_a_clear_model_is_an_error(files, reason, local):
    local.repos[REPO] = dict.fromkeys(files, b"")
    with pytest.raises(CheckpointError, match=f"^{REPO}.*{reason}"):
        fetch(REPO)
    assert not local.downloads


def test_an_id_that_the_hub_does_not_know_is_no_such_model(local):
    message = failure("painter/misspelt")
    assert "no such model on the hub" in message and "no such file" in message


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("code", ["GatedRepo", ""])
def test_a_gated_model_says_where_to_ask_and_how_to_log_in(status, code, local):
    local.gated[REPO] = status, code
    assert "needs permission; ask on the model's page" in failure()
    local.closed[REPO] = status, "GatedRepo"
    assert failure().endswith("then run: hf auth login")


def test_a_hub_that_cannot_be_reached_says_what_to_check():
    message = failure()
    assert "the hub cannot be reached" in message and "refused" in message
    assert message.endswith("check the connection, HF_ENDPOINT and HF_HUB_OFFLINE")


def test_a_hub_that_fails_is_an_error(local):
    local.closed[REPO] = 500, ""
    assert "the hub cannot be reached" in failure() and "500" in failure()


def test_an_interrupted_download_is_no_model_until_it_is_resumed(local, library):
    local.broken = {WEIGHTS[1]}
    failure()
    library("http://127.0.0.1:9")
    assert "not whole in the cache" in failure()
    library(local.url)
    local.broken, local.downloads = set(), []
    open_model(REPO)
    assert WEIGHTS[1] in local.downloads and WEIGHTS[0] not in local.downloads


def test_a_missing_shard_is_not_taken_from_the_cache(local, library, tmp_path, arrays):
    folder = checkpoints.write_folder(tmp_path / "sharded", arrays, "shards")
    local.repos[REPO] = contents(folder)
    (fetch(REPO) / "vae/diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    library("http://127.0.0.1:9")
    assert "not whole in the cache" in failure()


@pytest.mark.parametrize(
    "level, shown", [(logging.WARNING, True), (logging.ERROR, False)]
)
def test_progress_is_shown_unless_only_errors_are(level, shown, local, capsys, caplog):
    with caplog.at_level(level, "mlx_sd"):
        fetch(REPO)
    captured = capsys.readouterr()
    assert bool(captured.err) == shown and not captured.out
    assert not huggingface_hub.utils.are_progress_bars_disabled()


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mlx_sd", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


def test_the_command_takes_the_hub_from_the_environment(hub):
    first = run("inspect", REPO, HF_ENDPOINT=hub.url)
    assert first.returncode == 0 and "SD 1.x" in first.stdout and "%" in first.stderr
    assert sorted(hub.downloads) == sorted(WEIGHTS + SMALL)
    asked = hub.requests
    again = run("inspect", REPO, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert again.returncode == 0 and again.stdout == first.stdout
    assert again.stderr == "" and hub.requests == asked
    absent = run("inspect", "painter/x", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert absent.returncode == 1 and "HF_HUB_OFFLINE" in absent.stderr
    assert len(absent.stderr.splitlines()) == 1 and hub.requests == asked


def test_the_command_fails_in_one_line_when_the_hub_is_away(hub):
    start = time.monotonic()
    asked = ["generate", "-q", "-p", "a house", "-m"]
    away = run(*asked, "painter/away", HF_ENDPOINT="http://127.0.0.1:9")
    unknown = run(*asked, "painter/misspelt", HF_ENDPOINT=hub.url)
    for done in (away, unknown):
        assert done.returncode == 1 and done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
    assert away.stderr.startswith("Error: painter/away: no such file or folder, not")
    assert "no such model on the hub" in unknown.stderr
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "text",
    ["models/foo.safetensors", "a/b.CKPT", "./owner/name", "/owner/name", "a/b/c", "x"],
)
def test_a_path_is_never_looked_up_on_the_hub(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_repo_id(text)
    with pytest.raises(CheckpointError, match="no such file$"):
        open_model(text)


def test_a_folder_that_exists_goes_before_the_hub(tmp_path, monkeypatch, arrays):
    monkeypatch.chdir(tmp_path)
    checkpoints.write_folder(Path(REPO), arrays)
    assert is_repo_id(REPO) and open_model(REPO).path == Path(REPO)


def test_ids_are_recognised():
    assert is_repo_id("stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert is_repo_id("Lykon/dreamshaper-8") and is_repo_id("o/name_v1.5")
