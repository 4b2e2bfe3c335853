"""Every block of docs/recipes.md runs, in the page's order."""

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_families
from click.testing import CliRunner
from PIL import Image

import mlx_sd.pipeline
from mlx_sd.cli import main
from mlx_sd.defaults import defaults

PAGE = Path(__file__).parents[1] / "docs/recipes.md"


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(), re.DOTALL)


def run(line: str) -> None:
    if not line.startswith("mlx-sd "):
        subprocess.run(line, shell=True, check=True)
        return
    done = CliRunner().invoke(main, shlex.split(line)[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}"
    assert "cannot be repeated" not in done.output


@pytest.mark.slow  # thirty pictures of two steps
def test_recipes_run_as_they_stand(tmp_path, monkeypatch):
    """With two steps where a recipe names none, and a narrow model to edit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        mlx_sd.pipeline, "defaults", lambda source: replace(defaults(source), steps=2)
    )
    parts = small_families.shapes("edit", "started")
    small_families.write_folder(tmp_path / "instruct-pix2pix", parts)
    names: dict = {}
    for language, text in blocks():
        if language == "python":
            exec(compile(text, PAGE.name, "exec"), names)
        else:
            for line in text.strip().splitlines():
                run(line)

    def pixels(name: str) -> np.ndarray:
        with Image.open(name) as image:
            return np.asarray(image)

    assert (pixels("house.png") == np.asarray(names["house"])).all()
    assert (pixels("night.png") == np.asarray(names["night"])).all()
    assert (pixels("night.png") == np.asarray(names["again"])).all()
    assert Path("night.png").read_bytes() == Path("night_again.png").read_bytes()
    assert (pixels("sunset.png") == np.asarray(names["sunset"])).all()
    assert (pixels("wider.png") == np.asarray(names["wider"])).all()
    assert (pixels("snow.png") == np.asarray(names["snow"])).all()
    assert (pixels("blue.png")[:40] == pixels("house.png")[:40]).all()
    assert (pixels("cat_02.png") == np.asarray(names["cats"][2])).all()
    assert pixels("wide.png").shape == (128, 192, 3)
    assert len(list(tmp_path.glob("list_*.png"))) == 2
