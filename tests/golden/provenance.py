"""Writes what made a golden file into PROVENANCE.md, one section per script."""

import platform
import re
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent


def record(script: str, packages: tuple[str, ...], notes: str):
    """Replace the section of `script`; prints the versions too."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(versions)
    page = FOLDER / "PROVENANCE.md"
    machine = f"Python {platform.python_version()}, {platform.machine()}, float32 CPU"
    section = (
        f"## {script}\n\nCommand: `python tests/golden/{script}`\n\n"
        f"Versions: {versions}; {machine}\n\n{notes.strip()}\n"
    )
    intro = (
        "# Where the golden files come from\n\n"
        "Made by the scripts beside them, never by mlx_sd.\n"
        "The weights are those of `tests/seeded.py`.\n"
    )
    text = page.read_text() if page.exists() else intro
    parts = [p for p in re.split(r"(?m)^(?=## )", text) if f"## {script}\n" not in p]
    head, *sections = [part.strip() + "\n" for part in parts]
    page.write_text("\n".join([head, *sorted([*sections, section])]))
