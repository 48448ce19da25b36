"""Which code made a number: the modules that a program can import, each with a hash of what it does.

Comments, doc strings, layout and imports for the type checker are not part of a hash; all else is.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import vqpipe
from vqpipe.errors import ParamsError, did_you_mean
from vqpipe.runtime.env import scratch_root

ROOT = Path(vqpipe.__file__).parents[1]
"""The checkout: the folder of the packages `vqpipe` and `stages`."""
PACKAGES = ("vqpipe", "stages")
DIGITS = 12
"""Hexadecimal digits of a hash as it is written and recorded."""

MAX_KEPT = 2000
"""Parsed files that are kept in scratch."""

_PLUGIN = re.compile(r"\w+(?:\.\w+)+:\w+")
_WORD = re.compile(r"[\w-]+")
_SKIPPED = ("ctx", "kind", "type_comment", "type_ignores")
"""Fields of a syntax tree that follow from the rest or from a comment."""


def stage_code(stage: str, root: Path = ROOT, kinds: Collection[str] | None = None) -> str:
    """The digest of the code that a stage can import, which identifies the code that made its numbers.

    Args:
        stage: a module of the package `stages`, such as `row`.
        root: the checkout.
        kinds: of plug-ins only those whose key in their table is among these (see `words_in`); None for all. A method
            that is added to a table then leaves the digests of the others as they are.

    Raises:
        ParamsError: there is no such module.
    """
    code = Code(root)
    digest = code.digest(stage, kinds)
    code.keep()
    return digest


def words_in(params: Any) -> set[str]:
    """Every key and string of plain params: the kinds of the plug-ins that they name are among them."""
    match params:
        case str():
            return {params}
        case Mapping():
            return set[str]().union(*(words_in(part) for item in params.items() for part in item))
        case list() | tuple():
            return set[str]().union(*map(words_in, params))
    return set()


class Source(NamedTuple):
    """What one Python file does and mentions."""

    digest: str
    """A hash of its syntax tree without what does nothing and its tables of plug-ins; empty where nothing is left."""
    imports: list[str]
    """Dotted names of modules or of their content."""
    plugins: dict[str, str]
    """Its tables of plug-ins: the key of each `module:Class`."""
    words: list[str]
    """Its string constants of one word; one may be the name of a folder of data next to the file."""


class Code:
    """The Python files of a checkout, each read once by this object; files that change later are not noticed.

    Parsed files are kept in scratch by a hash of their content (`keep`), so that the next process need not parse them.

    Args:
        root: the checkout.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self._kept = self._read_kept()
        self._parsed = False
        self._sources: dict[Path, Source] = {}
        self._modules: dict[str, Path | None] = {}

    def listing(self, stage: str, kinds: Collection[str] | None = None) -> str:
        """One line `HASH  PATH` for each file of code that a stage can import, sorted by path.

        Two listings differ exactly where their digests do, and they show which files differ.

        Raises:
            ParamsError: there is no such module.
        """
        found = self.closure(f"stages.{stage}", kinds)
        return "".join(f"{found[path][:DIGITS]}  {path}\n" for path in sorted(found))

    def digest(self, stage: str, kinds: Collection[str] | None = None) -> str:
        """See `stage_code`."""
        return hashlib.sha256(self.listing(stage, kinds).encode()).hexdigest()[:DIGITS]

    def closure(self, module: str, kinds: Collection[str] | None = None) -> dict[str, str]:
        """The hash of each file that a module can import, and of the data next to these, by path under the root.

        Imports count anywhere in a file, but not under `if TYPE_CHECKING`; so do tables of plug-ins, that is
        `module:Class` by key, of which `kinds` selects keys (None for all). A folder without Python counts as data of a
        module next to it that has its name as a string.

        Raises:
            ParamsError: there is no such module.
        """
        start = self._module(module)
        if start is None:
            place = self.root / Path(*module.split(".")).parent
            known = sorted(path.stem for path in place.glob("*.py"))
            raise ParamsError(
                f"there is no module {module}{did_you_mean(module.split('.')[-1], known)}",
                found=module, expected=f"a file in {place}",
            )  # fmt: skip
        seen, queue, found = {start}, [start], dict[str, str]()
        while queue:
            file = queue.pop()
            found |= self._hashes_of(file, kinds)
            new = self.imported(file, kinds) - seen
            seen |= new
            queue += new
        return found

    def imported(self, file: Path, kinds: Collection[str] | None = None) -> set[Path]:
        """The checkout's files that a file imports, with the `__init__.py` of each package on the way to them."""
        names = set[str]()
        places = self._plugins(file, kinds)
        for name in [*self.source(file).imports, *(place.split(":")[0] for place in places)]:
            parts = name.split(".")
            if parts[0] in PACKAGES:
                names |= {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
        return {path for name in names if (path := self._module(name))} - {file}

    def source(self, file: Path) -> Source:
        """What a Python file does and mentions."""
        if file not in self._sources:
            content = file.read_bytes()
            package = ".".join(file.relative_to(self.root).parts[:-1])
            key = hashlib.sha256(content).hexdigest() + package
            if key not in self._kept:
                self._kept[key] = parse_source(content, package)
                self._parsed = True
            self._sources[file] = self._kept[key]
        return self._sources[file]

    def keep(self) -> None:
        """Save what was parsed for the next process; where scratch cannot be written, that will parse it again."""
        if not self._parsed:
            return
        path = _kept_path()
        part = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(dict(list(self._kept.items())[-MAX_KEPT:])), encoding="utf-8")
            part.replace(path)
        except OSError:
            with suppress(OSError):  # the folder may be a file, or read-only
                part.unlink()

    def _plugins(self, file: Path, kinds: Collection[str] | None) -> dict[str, str]:
        found = self.source(file).plugins
        return {place: key for place, key in found.items() if kinds is None or key in kinds}

    def _hashes_of(self, file: Path, kinds: Collection[str] | None) -> dict[str, str]:
        source, plugins = self.source(file), self._plugins(file, kinds)
        table = "".join(f"\n{place} {plugins[place]}" for place in sorted(plugins))
        digest = hashlib.sha256((source.digest + table).encode()).hexdigest() if table else source.digest
        found = {file: digest} if digest else {}
        for word in source.words:
            folder = file.parent / word
            if folder.is_dir() and not any(folder.rglob("*.py")):
                data = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
                found |= {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in data}
        return {path.relative_to(self.root).as_posix(): found[path] for path in found}

    def _module(self, name: str) -> Path | None:
        """The file of a dotted module name, or None."""
        if name not in self._modules:
            path = self.root / name.replace(".", "/")
            places = (path / "__init__.py", path.with_suffix(".py"))
            self._modules[name] = next((place for place in places if place.is_file()), None)
        return self._modules[name]

    def _read_kept(self) -> dict[str, Source]:
        try:
            return {key: Source(*value) for key, value in json.loads(_kept_path().read_bytes()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _kept_path() -> Path:
    """Parsed files in scratch, apart for each version of this module."""
    return scratch_root() / f"code-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:DIGITS]}.json"


def parse_source(content: bytes, package: str = "") -> Source:
    """Parse a Python file.

    Args:
        content: the file's bytes.
        package: the dotted name of the package that the file is in, from which its relative imports start.
    """
    imports, plugins, words = dict[str, None](), dict[str, str](), dict[str, None]()
    texts = ["".join(_behaviour(node, package, imports, plugins, words)) for node in ast.parse(content).body]
    behaviour = "\n".join(filter(None, texts)).encode()
    digest = hashlib.sha256(behaviour).hexdigest() if behaviour else ""
    return Source(digest, list(imports), plugins, list(words))


def _places(table: ast.Dict) -> dict[str, str]:
    """The key of each `module:Class` that is a value of a dictionary."""
    pairs = [(_text(key), _text(value)) for key, value in zip(table.keys, table.values, strict=True)]
    return {place: key for key, place in pairs if key and _PLUGIN.fullmatch(place)}


def _text(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _behaviour(
    node: Any, package: str, imports: dict[str, None], plugins: dict[str, str], words: dict[str, None]
) -> Iterator[str]:
    """The parts of a text of a syntax tree: the same in every version of Python, without what does nothing.

    What is mentioned on the way is added to `imports`, `plugins` and `words`; the entries of a table of plug-ins are
    no part of the text.
    """
    match node:
        case list():
            for item in node:
                if text := "".join(_behaviour(item, package, imports, plugins, words)):
                    yield f"{text},"
            return
        case ast.Expr(value=ast.Constant(value=str())):
            return  # a doc string, of a module, class or function, or under a field
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            yield from _behaviour(node.orelse, package, imports, plugins, words)
            return
        case ast.JoinedStr():  # Python 3.12 adds empty strings
            parts = [
                part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")
            ]
            yield from ("JoinedStr(", *_behaviour(parts, package, imports, plugins, words), ")")
            return
        case ast.Import():
            imports |= dict.fromkeys(alias.name for alias in node.names)
        case ast.ImportFrom():
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            imports |= dict.fromkeys([module, *(f"{module}.{alias.name}" for alias in node.names)])
        case ast.Dict() if places := _places(node):
            plugins |= places
            kept = [pair for pair in zip(node.keys, node.values, strict=True) if _text(pair[1]) not in places]
            node = ast.Dict([key for key, _ in kept], [value for _, value in kept])
        case ast.Constant(value=str() as text):
            if _WORD.fullmatch(text):
                words[text] = None
        case ast.AST():
            pass
        case _:
            yield ascii(node)
            return
    yield f"{type(node).__name__}("
    for field, value in ast.iter_fields(node):
        if field not in _SKIPPED and value is not None and value != []:
            yield f"{field}="
            yield from _behaviour(value, package, imports, plugins, words)
            yield ";"
    yield ")"
