"""Names of pictures' files, and batch files."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_sd import ConfigError, SDError
from mlx_sd.cli import main
from mlx_sd.cli.batch import read_batch
from mlx_sd.cli.outputs import numbered
from mlx_sd.metadata import read

SMALL = ["--steps", "1", "-W", "64", "-H", "64"]
pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.mark.parametrize(
    ("output", "count", "begin", "names"),
    [
        ("a.png", 1, 0, ["a.png"]),
        ("a.png", 1, 5, ["a.png"]),
        ("a.png", 2, 0, ["a_0.png", "a_1.png"]),
        ("a.jpg", 2, 7, ["a_7.jpg", "a_8.jpg"]),
        ("a", 1, 0, ["a.png"]),
        ("a.b", 2, 0, ["a.b_0.png", "a.b_1.png"]),
        ("a_%03d.webp", 2, 9, ["a_009.webp", "a_010.webp"]),
        ("%d.png", 1, 3, ["3.png"]),
        ("a%2d.png", 1, 3, ["a 3.png"]),
    ],
)
def test_pictures_are_named_as_in_stable_diffusion_cpp(output, count, begin, names):
    assert [path.name for path in numbered(Path("out", output), count, begin)] == names


@pytest.mark.parametrize("output", ["%d%d.png", "%s.png", "100%.png", "%099999d.png"])
def test_names_with_strange_places_are_refused(output):
    with pytest.raises(ConfigError, match="png: "):
        numbered(Path(output), 1)


@pytest.mark.parametrize("output", ["", ".", "..", "/", "made"])
def test_folders_are_no_names(output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("made").mkdir()
    for count in (1, 2):
        with pytest.raises(SDError, match="is a folder; name a file"):
            numbered(Path(output), count)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-o", "x" * 300], "cannot write there: File name too long"),
        (["--preview", "proj", "--preview-path", "x.gif"], "unknown kind of picture"),
    ],
)
def test_names_that_cannot_be_are_told_before_the_model_is_opened(flags, words):
    model = ["-m", "missing.safetensors"]
    done = CliRunner().invoke(main, ["generate", "-p", "a house", *model, *flags])
    assert done.exit_code in (1, 2) and words in done.stderr, done.output


def test_names_may_be_any_bytes(tmp_path):
    raw = os.fsencode(tmp_path) + b"/a\xff.png"
    args = ["generate", "-p", "a house", *SMALL, "-o", os.fsdecode(raw)]
    done = CliRunner().invoke(main, args)
    if done.exit_code:  # macOS has only names in UTF-8
        assert "cannot write" in done.stderr
    else:
        assert done.stdout_bytes == raw + b"\n"


def batch(path, text, given=None, output="out.png", begin=0):
    path.write_text(text, encoding="utf-8")
    return read_batch(path, given or {}, Path(output), begin)


def test_lines_are_prompts(tmp_path):
    jobs = batch(tmp_path / "a.txt", "a house\n\n  a tree \n", {"seed": 7, "steps": 3})
    assert [job.request.prompt for job in jobs] == ["a house", "a tree"]
    assert {(job.request.seed, job.request.steps) for job in jobs} == {(7, 3)}
    assert [str(job.paths[0]) for job in jobs] == ["out_0.png", "out_1.png"]
    (job,) = batch(tmp_path / "a.txt", "a house", output="b_%02d.jpg", begin=4)
    assert [str(path) for path in job.paths] == ["b_04.jpg"]


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
def test_lists_hold_prompts_and_fields(suffix, tmp_path):
    entries = [
        "a house",
        {"prompt": "a tree", "seed": 5, "cfg_scale": 3, "batch_count": 2},
        {"output": "own.webp", "steps": 9, "sigmas": [3, 1.5, 0]},
        {"prompt": "a cat", "sampling_method": "DPM++ 2M Karras"},
    ]
    given = {"prompt": "given", "steps": 4, "scheduler": "simple"}
    jobs = batch(tmp_path / f"a.{suffix}", json.dumps(entries), given)
    assert [job.request.prompt for job in jobs] == [
        "a house",
        "a tree",
        "given",
        "a cat",
    ]
    assert [job.request.steps for job in jobs] == [4, 4, 2, 4]
    assert jobs[1].request.seed == 5 and jobs[1].request.cfg_scale == 3.0
    assert jobs[3].request.scheduler == "karras"
    names = [[str(path) for path in job.paths] for job in jobs]
    assert names == [
        ["out_0.png"],
        ["out_1.png", "out_2.png"],
        ["own.webp"],
        ["out_3.png"],
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "prompt: a house", "holds no list"),
        ("a.yaml", "- prompt: [", "not YAML"),
        ("a.json", "[" * 100_000, "nested too deep|not YAML"),
        ("a.yaml", "- 5", "entry 1: neither a prompt nor"),
        ("a.yaml", "- steps: 5", "entry 1: has no prompt"),
        ("a.yaml", "- a\n- {prompt: b, step: 5}", "entry 2: unknown field 'step'; did"),
        ("a.yaml", "- {prompt: b, steps: many}", "entry 1: steps: 'many' is not int"),
        ("a.yaml", "- {prompt: b, steps: [1]}", "entry 1: steps: a list is not int"),
        ("a.yaml", "- {prompt: b, steps: 0}", "entry 1: steps 0: must be at least 1"),
        ("a.yaml", "- {prompt: 5}", "entry 1: prompt: 5 is not str"),
        (
            "a.yaml",
            "- {prompt: a, output: x.png}\n- {prompt: b, output: ./x.png}",
            "1 files are written twice: x.png",
        ),
        ("a.yaml", "- &a {prompt: a, output: x.png}\n- *a", "written twice: x.png"),
    ],
)
def test_bad_entries_are_named(name, text, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        batch(tmp_path / name, text)


def test_a_batch_is_painted_and_what_is_there_is_skipped(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("- a house\n- {prompt: a tree, seed: 3, batch_count: 2}")
    args = ["--batch-file", str(file), *SMALL, "-o", str(tmp_path / "o.png")]
    done = CliRunner().invoke(main, args)
    paths = [tmp_path / f"o_{i}.png" for i in range(3)]
    assert done.exit_code == 0 and done.stdout.split() == [str(p) for p in paths]
    assert "3/3" in done.stderr  # one bar for all
    assert [read(p).recipe.settings["Seed"] for p in paths] == ["42", "3", "4"]
    first, last = paths[0].stat().st_mtime_ns, paths[2].read_bytes()
    paths[2].unlink()
    done = CliRunner().invoke(main, args)
    assert done.stdout.split() == [str(paths[2])]
    assert "2 of 3 pictures are there already and are skipped" in done.stderr
    assert paths[0].stat().st_mtime_ns == first and paths[2].read_bytes() == last
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0 and done.stdout == ""


def test_a_prompt_beside_a_file_of_prompts_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="leave out --prompt"):
        batch(tmp_path / "a.txt", "a house", {"prompt": "a tree"})


def test_a_batch_that_cannot_be_read_is_one_line(tmp_path):
    done = CliRunner().invoke(main, ["--batch-file", str(tmp_path / "none.txt")])
    assert done.exit_code == 1 and "none.txt: cannot be read" in done.stderr
