"""The README's Python runs as it stands, and its commands exist."""

import re
import shlex
from pathlib import Path

from mlx_sd.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "cat.png").exists()
    assert len(capsys.readouterr().out.splitlines()) == 20  # the progress callback


def test_shell_examples_are_real_commands_and_options():
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True)[1:] for line in lines if "mlx-sd" in line]
    assert len(found) >= 4
    for name, *args in found:
        known = {o for p in main.commands[name].params for o in p.opts}
        assert {arg for arg in args if arg.startswith("-")} <= known


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links)
