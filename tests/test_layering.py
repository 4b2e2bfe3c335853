"""A module imports only lower ranks, or its own folder; none grows too long."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "mlx_sd"

_ORDER = (
    ("errors", "_version", "blas"),
    ("backend", "kernels"),
    ("sampling", "tokenizers", "folder"),
    ("nn",),
    ("models",),
    ("cuda",),
    ("convert",),
    ("weights",),
    ("quantize", "embeddings"),
    (
        *("build", "caching", "families", "hub", "image", "reading", "resize"),
        "tiling",
    ),
    ("training",),
    ("source",),
    ("opening", "request", "defaults"),
    ("metadata", "codec", "canvas"),
    ("start",),
    ("denoiser",),
    ("walk", "stage"),
    ("pipeline", "convert.__init__"),
    ("__init__",),
    ("bench",),
    ("cli", "demo"),
    ("__main__", "convert.__main__"),
)
RANKS = {name: rank for rank, names in enumerate(_ORDER) for name in names}


def sources() -> list[Path]:
    """All modules of the package; convert/ is a link, which rglob does not follow."""
    return sorted([*PACKAGE.rglob("*.py"), *(PACKAGE / "convert").rglob("*.py")])


def modules():
    """(path, its part, the parts it imports), the part being the first name."""
    for path in sources():
        inside = path.relative_to(PACKAGE).with_suffix("").parts
        part = ".".join(inside)  # a package's front door may have a rank of its own
        part = part if part in RANKS else inside[0]
        yield path, part, set(imported(path, inside))


def imported(path: Path, inside: tuple[str, ...]):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(inside[: len(inside) - node.level])
            target = base + (node.module.split(".") if node.module else [])
            if target:
                yield target[0]
            else:  # from . import a, b
                yield from (
                    alias.name if alias.name in RANKS else "__init__"
                    for alias in node.names
                )
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("mlx_sd"):
            yield (node.module.split(".") + ["__init__"])[1]


def test_every_folder_of_the_package_is_looked_at():
    parts = {part for _, part, _ in modules()}
    assert {"convert", "convert.__init__", "nn", "models", "cli"} <= parts


def test_imports_go_down_the_ranks():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {target}"
        for path, part, targets in modules()
        for target in targets
        if target != part and RANKS[target] >= RANKS[part]
    ]
    assert not wrong


def test_every_module_has_a_rank():
    assert {part for _, part, _ in modules()} <= RANKS.keys()


def test_no_module_is_longer_than_400_lines():
    files = [*sources(), *TESTS.rglob("*.py")]
    lengths = {path: len(path.read_text().splitlines()) for path in files}
    assert {path.name for path, length in lengths.items() if length > 400} == set()


def test_only_training_needs_torch():
    heavy = ("torch", "transformers", "diffusers")
    found = {
        path.relative_to(PACKAGE).parts[0]
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        for name in absolute_imports(node)
        if name.startswith(heavy)
    }
    assert found <= {"demo"}  # the bundled model's training, a script of its own


def absolute_imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or ""]
    return []
