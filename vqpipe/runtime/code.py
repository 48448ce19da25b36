"""Which code made a number: the modules that a program can import, each with a hash of what it does.

Comments, doc strings, layout and imports for the type checker are not part of a hash; all else is.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import vqpipe
from vqpipe.runtime.env import scratch_root

ROOT = Path(vqpipe.__file__).parents[1]
"""The checkout that holds the packages `vqpipe` and `stages`."""
PACKAGES = ("vqpipe", "stages")
DIGITS = 12
"""Hexadecimal digits of a digest as it is shown and recorded."""

_PLUGIN = re.compile(r"(\w+(?:\.\w+)+):\w+")
_WORD = re.compile(r"[\w-]+")
_SKIPPED = ("ctx", "kind", "type_comment", "type_ignores")
"""Fields of a syntax tree that follow from the rest or from a comment."""


class Source(NamedTuple):
    """What one Python file does (`digest`; empty where it does nothing) and the names that it mentions.

    `imports` are dotted names of modules or of what is in them, the modules of plug-in tables included. `words` are its
    string constants of one word: one may name a folder of data next to the file.
    """

    digest: str
    imports: list[str]
    words: list[str]


def stage_code(stage: str, root: Path = ROOT) -> str:
    """The digest of all code that a stage can import: what its row, its metrics or its artifact was made by.

    Args:
        stage: a module of the package `stages`, such as `row`.
        root: the checkout.

    Raises:
        FileNotFoundError: there is no such module.
    """
    return hashlib.sha256(code_listing(stage, root).encode()).hexdigest()[:DIGITS]


def code_listing(stage: str, root: Path = ROOT) -> str:
    """One line `HASH  PATH` for each file that a stage's numbers can depend on, sorted by path.

    Two listings are equal exactly if the digests of `stage_code` are, and their difference is the list of changed files.

    Raises:
        FileNotFoundError: there is no such module.
    """
    found = closure(f"stages.{stage}", root)
    return "".join(f"{found[path][:DIGITS]}  {path}\n" for path in sorted(found))


def closure(module: str, root: Path = ROOT) -> dict[str, str]:
    """The hash of each file that a module can import, and of the data that these read, by path relative to `root`.

    The closure follows imports anywhere in a file, but not under `if TYPE_CHECKING`, and the strings `module:Class` of
    tables of plug-ins. Data are the files of a folder without Python next to a module that names the folder in a string.

    Raises:
        FileNotFoundError: there is no such module.
    """
    start = module_file(module, root)
    if start is None:
        raise FileNotFoundError(f"no module {module} under {root}")
    seen, queue, found = {start}, [start], dict[str, str]()
    while queue:
        file = queue.pop()
        if digest := source_of(file).digest:
            found[file.relative_to(root).as_posix()] = digest
        for data in data_files(file):
            found[data.relative_to(root).as_posix()] = hashlib.sha256(data.read_bytes()).hexdigest()
        new = imported_files(file, root) - seen
        seen |= new
        queue += new
    _keep_sources()
    return found


def imported_files(file: Path, root: Path = ROOT) -> set[Path]:
    """The project's files that a file imports, with the `__init__.py` of every package on the way to them."""
    found: set[Path] = set()
    for name in source_of(file).imports:
        parts = name.split(".")
        if parts[0] not in PACKAGES:
            continue
        for depth in range(1, len(parts) + 1):
            if path := module_file(".".join(parts[:depth]), root):
                found.add(path)
    return found - {file}


def data_files(file: Path) -> list[Path]:
    """The files of folders without Python that are next to a module and named in it."""
    return [
        path
        for word in source_of(file).words
        if (folder := file.parent / word).is_dir() and not any(folder.rglob("*.py"))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


@cache
def module_file(name: str, root: Path) -> Path | None:
    """The source file of a dotted module name under `root`, or None."""
    path = root / name.replace(".", "/")
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else None


@cache
def source_of(file: Path) -> Source:
    """What a Python file does and mentions; parsed once for each content, then read from scratch."""
    content = file.read_bytes()
    key = hashlib.sha256(content).hexdigest()
    kept = _kept_sources()
    if key not in kept:
        kept[key] = parse_source(content, _package_of(file))
        kept[""] = Source("changed", [], [])
    return kept[key]


def parse_source(content: bytes, package: str = "") -> Source:
    """Parse a Python file; `package` is what its relative imports start from."""
    tree = ast.parse(content)
    imports, words, texts = dict[str, None](), dict[str, None](), list[str]()
    for node in tree.body:
        if text := "".join(_behaviour(node, package, imports, words)):
            texts.append(text)
    digest = hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest() if texts else ""
    return Source(digest, list(imports), list(words))


def _behaviour(
    node: Any, package: str, imports: dict[str, None], words: dict[str, None]
) -> Iterator[str]:
    """The parts of a text of a syntax tree that is the same in every version of Python, without what does nothing."""
    if isinstance(node, list):
        for item in node:
            yield from _behaviour(item, package, imports, words)
            yield ","
        return
    if not isinstance(node, ast.AST):
        yield repr(node)
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return  # a doc string, of a module, class or function, or under a field
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        yield from _behaviour(node.orelse, package, imports, words)
        return
    if isinstance(node, ast.Import):
        imports |= dict.fromkeys(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        imports |= dict.fromkeys([module, *(f"{module}.{alias.name}" for alias in node.names)])
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if place := _PLUGIN.fullmatch(node.value):
            imports[place.group(1)] = None
        elif _WORD.fullmatch(node.value):
            words[node.value] = None
    yield type(node).__name__
    yield "("
    for field, value in ast.iter_fields(node):
        if field not in _SKIPPED and value is not None and value != []:
            yield field
            yield "="
            yield from _behaviour(value, package, imports, words)
            yield ";"
    yield ")"


def _package_of(file: Path) -> str:
    parts = list(file.parts)
    for name in PACKAGES:
        if name in parts:
            return ".".join(parts[len(parts) - 1 - parts[::-1].index(name) : -1])
    return ""


def _kept_path() -> Path:
    """One file of parsed sources for each version of this module."""
    return scratch_root() / f"code-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:DIGITS]}.json"


@cache
def _kept_sources() -> dict[str, Source]:
    try:
        return {key: Source(*value) for key, value in json.loads(_kept_path().read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep_sources() -> None:
    """Save what was parsed for the next process, if anything was; a folder that cannot be written costs time alone."""
    kept = _kept_sources()
    if kept.pop("", None) is None:
        return
    path = _kept_path()
    part = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(kept), encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
