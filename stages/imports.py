"""Which source files a module needs, found by parsing imports; keeps the code deps of dvc.yaml true.

`python -m stages.imports --write` puts each stage's list between its `# code` markers in dvc.yaml.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from stages.cli import stage_app
from vqpipe.runtime.terminal import say

PACKAGES = ("vqpipe", "stages")


def module_file(name: str, root: Path) -> Path | None:
    """The source file of a dotted module name under `root`, or None."""
    path = root / name.replace(".", "/")
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else None


@cache
def direct_imports(file: Path, root: Path) -> frozenset[Path]:
    """The project's files that a file imports anywhere, inside functions too, but not under TYPE_CHECKING."""
    found: set[Path] = set()

    def add(name: str) -> bool:
        if name.split(".")[0] not in PACKAGES or (path := module_file(name, root)) is None:
            return False
        found.add(path)
        parts = name.split(".")
        for depth in range(1, len(parts)):
            if package := module_file(".".join(parts[:depth]), root):
                found.add(package)
        return True

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            add(node.module)
            for alias in node.names:
                add(f"{node.module}.{alias.name}")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return frozenset(found - {file})


def needed_files(module: str, root: Path) -> list[str]:
    """All project files that running `module` can import, sorted, relative to `root`.

    Files that hold nothing but a docstring are left out: they change no output.
    """
    start = module_file(module, root)
    assert start is not None, module
    seen, queue = {start}, [start]
    while queue:
        for path in direct_imports(queue.pop(), root) - seen:
            seen.add(path)
            queue.append(path)
    return sorted(p.relative_to(root).as_posix() for p in seen if has_code(p))


def as_deps(files: list[str], root: Path) -> list[str]:
    """The same files as DVC deps: a folder in place of its files where all that it holds is needed.

    DVC reads dvc.lock with a slow parser on every call, so short lists are time saved.
    """
    needed, deps = set(files), set(files)
    folders = {parent for file in files for parent in Path(file).parents if parent.name}
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        held = [
            path for path in (root / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        ]
        inside = {path.relative_to(root).as_posix() for path in held if has_code(path)}
        if len(inside) > 1 and inside <= needed:
            deps = {dep for dep in deps if not Path(dep).is_relative_to(folder)} | {folder.as_posix()}
    return sorted(deps)


@cache
def has_code(path: Path) -> bool:
    """Whether a file is more than a docstring; files that are not Python always are."""
    if path.suffix != ".py":
        return True
    module = ast.parse(path.read_text(encoding="utf-8"))
    return len(module.body) > (ast.get_docstring(module) is not None)


def with_code_deps(text: str, root: Path) -> str:
    """dvc.yaml's text with every `# code: MODULE` … `# end of code` block filled in anew."""

    def block(match: re.Match[str]) -> str:
        indent, module = match.group(1), match.group(2)
        lines = [f"{indent}- {path}" for path in as_deps(needed_files(module, root), root)]
        return "\n".join([f"{indent}# code: {module}", *lines, f"{indent}# end of code"])

    return re.sub(r"^( +)# code: (\S+)\n(?:.*\n)*?\1# end of code", block, text, flags=re.MULTILINE)


def main(write: Annotated[bool, typer.Option(help="Rewrite dvc.yaml; otherwise only tell.")] = False) -> None:
    """Bring the code deps in dvc.yaml up to date with the imports.

    Example: python -m stages.imports --write
    """
    root = Path.cwd()
    path = root / "dvc.yaml"
    before = path.read_text(encoding="utf-8")
    after = with_code_deps(before, root)
    if write:
        path.write_text(after, encoding="utf-8")
    state = "is up to date" if before == after else "brought up to date" if write else "is not up to date"
    say(f"dvc.yaml {state}")
    if before != after and not write:
        raise typer.Exit(1)


app = stage_app(main)

if __name__ == "__main__":
    app()
