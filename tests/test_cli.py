"""The command line, with the model that comes with the package."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mlx_sd import Request, __version__
from mlx_sd.cli import COMMANDS, main

PROMPT = "a red house and a green tree under a night sky"
QUICK = ["generate", "-p", PROMPT, "--steps", "2", "-W", "64", "-H", "64"]


def run(*args, **options):
    return CliRunner().invoke(main, [str(arg) for arg in args], **options)


def opened(path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def pixels(path) -> np.ndarray:
    return np.asarray(opened(path))


def test_the_overview_shows_each_commands_own_first_line():
    for name, line in COMMANDS.items():
        command = main.get_command(None, name)
        assert command.help.split("\n\n")[0].replace("\n", " ") == line, name


def test_the_overview_comes_without_what_painting_needs():
    code = (
        "import sys, mlx_sd.cli\n"
        "mlx_sd.cli.main(['--help'], standalone_mode=False)\n"
        "print({'numpy', 'PIL', 'tqdm', 'mlx_sd.pipeline'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage") and done.stdout.endswith("\nset()\n")


def test_generate_writes_a_picture_and_prints_its_path(tmp_path):
    path = tmp_path / "new folder" / "house.png"
    done = run("generate", "-p", PROMPT, "-o", path)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{path}\n"
    assert re.search(r"20/20 .*(it/s|s/it)", done.stderr)
    image = opened(path)
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (128, 128))


def test_parameters_in_the_png_are_a1111s(tmp_path):
    path = tmp_path / "a.png"
    args = ("-n", "rain", "--cfg-scale", "5.5", "--scheduler", "karras")
    assert run(*QUICK, *args, "-s", 7, "-o", path).exit_code == 0
    prompt, negative, settings = opened(path).text["parameters"].split("\n")
    assert prompt == PROMPT and negative == "Negative prompt: rain"
    # A1111's own pattern for the settings line.
    pattern = r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)'
    found = dict(re.findall(pattern, settings))
    assert found.pop("MLXSD")  # all of the request, see test_metadata.py
    assert found == {
        "Steps": "2",
        "Sampler": "Euler a",
        "Schedule type": "Karras",
        "CFG scale": "5.5",
        "Seed": "7",
        "Size": "64x64",
        "Model": "picture-book",
        "RNG": "NV",
        "Version": f"mlx-sd {__version__}",
    }


def test_prompt_beyond_latin_1_survives_in_the_png(tmp_path):
    path = tmp_path / "a.png"
    assert run("generate", "-p", "赤い家 🏠", *QUICK[3:], "-o", path).exit_code == 0
    assert opened(path).text["parameters"].startswith("赤い家 🏠\n")


def test_seed_decides_the_picture_and_batches_count_it_up(tmp_path):
    assert run(*QUICK, "-s", 5, "-o", tmp_path / "a.png").exit_code == 0
    done = run(*QUICK, "-s", 4, "-b", 2, "-o", tmp_path / "b.png")
    assert done.stdout.split() == [str(tmp_path / f"b_{i}.png") for i in range(2)]
    same = pixels(tmp_path / "a.png") == pixels(tmp_path / "b_1.png")
    assert same.all()
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b_0.png")).any()
    assert "Seed: 5," in opened(tmp_path / "b_1.png").text["parameters"]


def test_random_seed_is_reported_and_repeats_the_picture(tmp_path):
    done = run(*QUICK, "-s", -1, "-o", tmp_path / "a.png")
    seed = re.search(r"^seed (\d+)$", done.stderr, re.MULTILINE)[1]
    assert f"Seed: {seed}," in opened(tmp_path / "a.png").text["parameters"]
    run(*QUICK, "-s", seed, "-o", tmp_path / "b.png")
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()
    other = run(*QUICK, "-s", -1, "-o", tmp_path / "c.png")
    assert f"seed {seed}\n" not in other.stderr


def test_quiet_prints_the_path_alone(tmp_path):
    done = run(*QUICK, "--quiet", "-o", tmp_path / "a.png")
    assert done.exit_code == 0 and done.stderr == ""
    assert done.stdout == f"{tmp_path / 'a.png'}\n"


def test_long_prompt_is_read_in_chunks_with_a_notice(tmp_path):
    prompt = " and ".join(["a red house"] * 30)
    done = run("generate", "-p", prompt, *QUICK[3:], "-o", tmp_path / "a.png")
    assert done.exit_code == 0 and "2 chunks" in done.stderr


def test_long_negative_prompt_works_beside_a_short_prompt(tmp_path):
    negative = " and ".join(["rain"] * 60)
    assert run(*QUICK, "-n", negative, "-o", tmp_path / "a.png").exit_code == 0


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["-W", "100"], 2, ["width 100", "multiple of 8"]),
        (["-H", "-8"], 2, ["height -8"]),
        (["--steps", "0"], 2, ["steps 0", "at least 1"]),
        (["--steps", "many"], 2, ["--steps", "many"]),
        (["-b", "0"], 2, ["batch_count 0"]),
        (["-b", "99999999999"], 2, ["batch_count 99999999999: 100000 is the most"]),
        (["--steps", "99999999999"], 2, ["steps", "10000 is the most"]),
        (["-W", "8" * 30], 2, ["width", "32768 is the most"]),
        (["-s", "-2"], 2, ["seed -2"]),
        (["-s", str(2**64 - 1), "-b", "2"], 2, ["seed 18446744073709551615"]),
        (["--cfg-scale", "nan"], 2, ["cfg_scale nan"]),
        (["--sampling-method", "heum"], 2, ["heum", "did you mean heun"]),
        (["--scheduler", "kharras"], 2, ["kharras", "karras"]),
        (["--unknown"], 2, ["--unknown"]),
        (["-m", "missing.safetensors"], 1, ["missing.safetensors", "no such file"]),
        (["--vae", "missing.safetensors"], 1, ["missing.safetensors", "no such file"]),
        (["-o", "/dev/null/a.png"], 1, ["/dev/null", "cannot write"]),
    ],
)
def test_bad_input_is_one_line(args, code, words, tmp_path):
    done = run(*QUICK, "-o", tmp_path / "a.png", *args)
    assert done.exit_code == code
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
    for word in words:
        assert word in done.stderr
    assert list(tmp_path.glob("*")) in ([], [tmp_path / "huggingface"])


def test_output_is_checked_before_any_work(tmp_path, monkeypatch):
    module = sys.modules["mlx_sd.cli.generate"]
    monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("work was begun"))
    done = run(*QUICK, "-o", tmp_path)
    assert done.exit_code == 1 and "is a folder" in done.stderr


def test_ctrl_c_stops_within_a_step_and_leaves_no_file(tmp_path):
    args = ["generate", "-p", PROMPT, "--steps", "5000", "-o", str(tmp_path / "a.png")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_sd", *args],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A shell's background jobs, and so their children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        try:
            seen = b""
            while b"/5000" not in seen:  # the bar: denoising has begun
                byte = process.stderr.read(1)
                assert byte, seen
                seen += byte
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            begin = time.monotonic()
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
    assert time.monotonic() - begin < 10  # a step takes well under a second
    assert process.returncode == 1
    assert b"stopped" in rest and b"Traceback" not in rest
    assert list(tmp_path.glob("*.p*")) == []


def test_version_and_help():
    assert __version__ in run("--version").stdout
    for command in ([], ["generate"], ["inspect"], ["info"]):
        done = run(*command, "-h")
        assert done.exit_code == 0 and "Usage" in done.stdout


def test_info_names_device_and_blas():
    text = run("info").stdout
    for word in ("MLX", "Device", "Memory", "BLAS", "GFLOP/s"):
        assert word in text


def test_request_survives_json():
    import json

    request = Request(prompt="x", seed=2**64 - 1, width=64)
    assert Request(**json.loads(json.dumps(request.to_dict()))) == request
