"""A layer imports only from layers below it; siblings do not import each other."""

from pathlib import Path

import pytest

from stages.imports import direct_imports

ROOT = Path(__file__).parents[2]
LAYERS = [
    {"params", "errors"},
    {"runtime"},
    {"artifacts"},
    {"codebooks"},
    {"data", "text", "vision"},
    {"quantizers", "models"},
    {"losses", "alignment", "metrics"},
    {"engine"},
    {"tokenizers", "clip_fit"},
    {"evaluation", "reading"},
    {"rows", "tasks", "priors", "library"},
    {"report"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
FILES = sorted((ROOT / "vqpipe").rglob("*.py"))
assert FILES


def room(path: Path) -> str:
    return path.relative_to(ROOT / "vqpipe").parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_run_down(file: Path) -> None:
    own = room(file)
    if own == "__init__":
        return
    assert own in HEIGHT, f"vqpipe/{own} belongs to no layer; add it to LAYERS"
    for path in direct_imports(file, ROOT):
        assert path.is_relative_to(ROOT / "vqpipe"), f"{file} imports {path}, outside the library"
        other = room(path)
        if other in (own, "__init__"):
            continue
        shared = {own, other} == {"params", "errors"}
        assert shared or HEIGHT[other] < HEIGHT[own], f"{own} imports {other}: not below it ({path.name})"


def test_the_guard_sees_an_arrow_that_runs_up(tmp_path: Path) -> None:
    (tmp_path / "vqpipe/runtime").mkdir(parents=True)
    for name in ("vqpipe/__init__.py", "vqpipe/runtime/__init__.py", "vqpipe/report.py"):
        (tmp_path / name).write_text("")
    bad = tmp_path / "vqpipe/runtime/bad.py"
    bad.write_text("def f():\n    from vqpipe.report import x\n")
    assert tmp_path / "vqpipe/report.py" in direct_imports(bad, tmp_path)
