"""A layer imports only from layers below it; siblings do not import each other."""

from pathlib import Path

import pytest

from vqpipe.runtime.code import Code

ROOT = Path(__file__).parents[2]
LAYERS = [
    {"params", "errors"},
    {"runtime"},
    {"artifacts"},
    {"codebooks"},
    {"text", "vision", "data"},
    {"quantizers", "models", "metrics"},
    {"alignment"},
    {"training"},
    {"tokenizers"},
    {"evaluation"},
    {"tasks", "priors"},
    {"library"},
    {"report"},
    {"boards"},
    {"cli"},
    {"__main__"},
]
"""Packages and modules of vqpipe, from the bottom up."""
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
CODE = Code(ROOT)
FILES = sorted((ROOT / "vqpipe").rglob("*.py"))
assert FILES


def package_of(path: Path, root: Path) -> str:
    return path.relative_to(root / "vqpipe").parts[0].removesuffix(".py")


def climbs(file: Path, code: Code, root: Path) -> list[str]:
    """The imports of a file of the library that do not run down."""
    own, found = package_of(file, root), []
    if own == "__init__":
        return []
    assert own in HEIGHT, f"vqpipe/{own} is in no layer; add it to LAYERS"
    for path in sorted(code.imported(file)):
        if not path.is_relative_to(root / "vqpipe"):
            found.append(f"{path} is outside the library")
            continue
        other = package_of(path, root)
        shared = {own, other} == {"params", "errors"}
        if other not in (own, "__init__") and not shared and HEIGHT[other] >= HEIGHT[own]:
            found.append(f"{own} imports {other} ({path.name}), which is not below it")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_run_down(file: Path) -> None:
    assert not climbs(file, CODE, ROOT)


def test_the_guard_sees_an_import_that_climbs(tmp_path: Path) -> None:
    (tmp_path / "vqpipe/runtime").mkdir(parents=True)
    for name in ("vqpipe/__init__.py", "vqpipe/runtime/__init__.py", "vqpipe/report.py"):
        (tmp_path / name).write_text("")
    bad = tmp_path / "vqpipe/runtime/bad.py"
    bad.write_text("def f():\n    from vqpipe.report import x\n")
    found = climbs(bad, Code(tmp_path), tmp_path)
    assert found == ["runtime imports report (report.py), which is not below it"]
