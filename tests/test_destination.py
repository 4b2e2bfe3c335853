"""Where a conversion goes: whole or not at all, and never over what is wanted."""

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from click.testing import CliRunner
from process import python
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from mlx_sd import CheckpointError
from mlx_sd.cli import main
from mlx_sd.convert import convert
from mlx_sd.convert.writers import file as writing
from mlx_sd.opening import DEMO

ROOT = Path(__file__).parents[1]
ARRAYS = {"a.weight": np.ones((64, 64), np.float32), "a.bias": np.ones(64, np.float32)}


@pytest.fixture
def source(tmp_path):
    save_file(ARRAYS, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def run(*args):
    return CliRunner().invoke(main, ["convert", *map(str, args)])


def left(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_the_command_writes_a_file_and_prints_its_path(source, tmp_path):
    done = run(source, tmp_path / "new" / "b.safetensors", "--type", "F16")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path}/new/b.safetensors\n"
    assert "unknown tensors kept: 2, first 'a.bias'" in done.stderr
    found = load_file(tmp_path / "new" / "b.safetensors")
    assert found["a.weight"].dtype == np.float16 and found["a.bias"].dtype == np.float32


def test_the_package_is_a_program_too(source, tmp_path):
    target = tmp_path / "b.gguf"
    command = [sys.executable, "-m", "mlx_sd.convert", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, f"{target}\n"), done.stderr


def test_parts_alone_can_be_what_is_converted(tmp_path):
    done = run(tmp_path / "b.safetensors", "--vae", DEMO / "vae")
    assert done.exit_code == 0, done.output
    ours = load_file(tmp_path / "b.safetensors")
    theirs = load_file(DEMO / "vae/diffusion_pytorch_model.safetensors")
    assert len(ours) == len(theirs) and "decoder.up.0.block.0.conv1.weight" in ours


@pytest.mark.parametrize(
    "args, words",
    [
        (["x.ckpt"], ["x.ckpt", "unknown kind of file '.ckpt'", ".gguf"]),
        (
            ["x.safetensors", "--type", "q8_0"],
            ["cannot hold q8_0", "f32, f16"],
        ),
        (["x", "--tensor-type-rules", "a=q4_K"], ["cannot hold q4_k"]),
        (["x.gguf", "--type", "q9_0"], ["q9_0", "q8_0"]),
        (["x.gguf", "--tensor-type-rules", "a"], ["'a'", "regex=type"]),
        (["x.gguf", "--tensor-type-rules", "a=q9"], ["'q9' is unknown", "q8_0"]),
        (["x.gguf", "--tensor-type-rules", "(=f16"], ["not a regular expression"]),
        (["x.gguf", "--names", "openclip"], ["openclip", "diffusers"]),
        (["x", "--names", "ldm"], ["folder", "diffusers' names"]),
        ([], ["name what to convert"]),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(args, words, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(source, *args)
    assert done.exit_code == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert left(tmp_path).keys() == {"a.safetensors"}


def test_what_is_there_is_replaced_by_force_alone(source, tmp_path):
    target = tmp_path / "b.safetensors"
    target.write_text("mine")
    done = run(source, target)
    assert done.exit_code == 1 and target.read_text() == "mine"
    assert done.stderr == f"Error: {target}: exists; replace it with --force\n"
    assert run(source, target, "--force").exit_code == 0
    assert load_file(target).keys() == ARRAYS.keys()


def test_a_model_folder_is_replaced_by_force_alone(tmp_path):
    target = tmp_path / "model"
    target.mkdir()  # an empty one may be filled
    assert run(DEMO, target).exit_code == 0
    (target / "mine").write_text("")
    assert "replace it with --force" in run(DEMO, target).stderr
    assert (target / "mine").exists()
    assert run(DEMO, target, "--force").exit_code == 0
    assert not (target / "mine").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path):
    (tmp_path / "mine").write_text("")
    done = run(DEMO, tmp_path, "--force")
    assert done.exit_code == 1 and "with other things in it" in done.stderr
    assert left(tmp_path).keys() == {"mine"}


def test_the_source_is_never_replaced(source, tmp_path):
    before = left(tmp_path)
    (tmp_path / "link.safetensors").symlink_to(source)
    for target in (source, tmp_path / "link.safetensors"):
        done = run(source, target, "--force")
        assert done.exit_code == 1 and "is what is read" in done.stderr
    (tmp_path / "link.safetensors").unlink()
    assert left(tmp_path) == before
    shutil.copytree(DEMO, tmp_path / "demo")
    weights = tmp_path / "demo/vae/diffusion_pytorch_model.safetensors"
    for target in (weights, tmp_path / "demo"):
        assert "is what is read" in run(tmp_path / "demo", target, "--force").stderr


def test_a_full_disk_is_foreseen(source, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 10**4, 10**4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    done = run(source, tmp_path / "b.safetensors")
    assert done.exit_code == 1 and "0.00 GB free" in done.stderr
    assert left(tmp_path).keys() == {"a.safetensors"}


@pytest.mark.parametrize("target", ["b.gguf", "folder"])
def test_a_disk_that_fills_leaves_everything_as_it_was(target, tmp_path, monkeypatch):
    if target == "b.gguf":
        (tmp_path / target).write_text("mine")
    before, synced = left(tmp_path), []

    def fsync(number: int) -> None:
        synced.append(number)
        if target == "b.gguf" or len(synced) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.os, "fsync", fsync)
    done = run(DEMO, tmp_path / target, "--force")
    assert done.exit_code == 1 and synced
    assert done.stderr.splitlines()[-1].startswith(
        f"Error: {tmp_path / target}: cannot be written (No space left on device)"
    )
    monkeypatch.undo()
    assert left(tmp_path) == before and len(list(tmp_path.iterdir())) == len(before)


LIMITED = """
import resource, signal, sys
from mlx_sd.convert import convert
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
convert(sys.argv[1], sys.argv[2])
"""


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(DEMO), str(tmp_path / "b.gguf")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "b.gguf: cannot be written (File too large)" in done.stderr
    assert left(tmp_path) == {}


def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch):
    def stop(done: int, total: int) -> None:
        assert 0 < done < total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(DEMO, tmp_path / "b.gguf", on_progress=stop)
    monkeypatch.setattr(tqdm, "update", lambda *_: stop(1, 2))
    done = run(DEMO, tmp_path / "b")
    assert done.exit_code == 1 and "stopped; nothing was written" in done.stderr
    assert left(tmp_path) == {} and list(tmp_path.iterdir()) == []


def test_progress_ends_at_the_size_of_the_file(source, tmp_path):
    seen = []
    target = tmp_path / "b.gguf"
    convert(source, target, on_progress=lambda *now: seen.append(now))
    done, total = zip(*seen, strict=True)
    assert set(total) == {target.stat().st_size} and done[-1] == total[0]
    assert list(done) == sorted(done)


def test_gguf_refuses_what_ggml_cannot_hold(tmp_path):
    for name, shape in (("n" * 128, (2, 2)), ("five", (2, 2, 2, 2, 2))):
        save_file({name: np.ones(shape, "f4")}, tmp_path / "a.safetensors")
        with pytest.raises(CheckpointError, match="at most 127 bytes and 4 axes"):
            convert(tmp_path / "a.safetensors", tmp_path / "b.gguf")
    save_file({"n" * 127: np.ones(2, "f4")}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.gguf")


def test_a_type_that_gguf_lacks_is_left_out_with_a_notice(tmp_path, caplog):
    arrays = {**ARRAYS, "flags": np.ones(4, np.uint8)}
    save_file(arrays, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.gguf")
    assert "tensors of U8 left out, which the file cannot hold: 1" in caplog.text


MEASURE = """
import sys
from process import peak
from mlx_sd.convert import convert
before = peak()
convert(sys.argv[1], sys.argv[2], type="q8_0")
print(peak() - before)
"""


def test_memory_holds_pieces_and_no_whole_tensor(tmp_path):
    shapes = {f"{i}.weight": (1024, 12288) for i in range(6)}  # 50 MB each
    source = checkpoints.hollow(tmp_path / "a.safetensors", shapes, "F32")
    assert int(python("-c", MEASURE, source, tmp_path / "b.gguf")) < 80e6
