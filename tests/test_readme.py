"""The README's Python runs as it stands; its commands and the recipes' exist."""

import re
import shlex
from pathlib import Path

import pytest

from mlx_sd.cli import main

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "docs/recipes.md")}


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def test_python_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "cat.png").exists()
    assert len(capsys.readouterr().out.splitlines()) == 20  # the progress callback


@pytest.mark.parametrize("page", PAGES)
def test_shell_examples_are_real_commands_and_options(page):
    lines = "\n".join(blocks("sh", page)).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True)[1:] for line in lines if "mlx-sd" in line]
    assert len(found) >= 4
    for name, *args in found:
        known = {o for p in main.get_command(None, name).params for o in p.opts}
        assert {arg for arg in args if arg.startswith("-")} <= known


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", PAGES[page])
    folder = (ROOT / page).parent
    assert links and all((folder / link).exists() for link in links)
