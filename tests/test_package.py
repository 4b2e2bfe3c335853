"""The built package: everything is in it, `convert` above all, and it works alone."""

import importlib.metadata
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = [
    "mlx_sd/convert/__init__.py",
    "mlx_sd/convert/rules/unet.py",
    "mlx_sd/convert/readers/safetensors.py",
    "mlx_sd/demo/picture-book/unet/diffusion_pytorch_model.safetensors",
    "mlx_sd/demo/picture-book/tokenizer/merges.txt",
    "mlx_sd/tokenizers/data/bpe_simple_vocab_16e6.txt.gz",
    "mlx_sd/tokenizers/data/LICENSE-CLIP",
    "mlx_sd/kernels/native/conv.c",
    "mlx_sd/py.typed",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with an sdist, and a wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_wheel_and_sdist_carry_every_file(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        in_wheel = set(wheel.namelist())
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        in_sdist = {name.split("/", 1)[-1] for name in sdist.getnames()}
    assert set(NEEDED) <= in_wheel
    assert set(NEEDED) <= in_sdist
    top = {name.split("/")[0] for name in in_wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"mlx_sd"}


def test_wheel_works_without_the_checkout(built, tmp_path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    code = (
        "import mlx_sd, mlx_sd.convert.detect as d, mlx_sd.errors as e;"
        "assert d.CheckpointError is e.CheckpointError;"
        "print(mlx_sd.__file__, mlx_sd.load().source.family.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path)) and "SD 1.x" in done.stdout


def test_what_the_readme_names_is_there_from_the_start():
    code = (
        "import mlx_sd; mlx_sd.convert.convert; mlx_sd.load; mlx_sd.Request;"
        "assert {*mlx_sd.__all__, 'convert'} == set(dir(mlx_sd))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_checkout_has_convert_as_a_link():
    link = ROOT / "mlx_sd" / "convert"
    assert link.is_symlink() and link.resolve() == ROOT / "convert"


def test_the_installed_package_has_convert_too(tmp_path):
    try:
        importlib.metadata.version("mlx-sd")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("runs from a bare checkout; make test installs it")
    done = subprocess.run(
        [sys.executable, "-c", "import mlx_sd.convert.rules as r; print(r.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
