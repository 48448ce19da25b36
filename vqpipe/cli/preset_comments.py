"""Comments of preset files, by the key that they are about.

ruamel keeps a comment with the key before it: in a merged file it would stay where the value that it explains was
overridden. Here a comment belongs to the path of the key below it (or on its line), and goes with the value. Comments
within lists and flow style, and behind the last key, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

Path = tuple[str, ...]
_END = re.compile(r"""^(?:[^"'#]|\S#|"[^"]*"|'[^']*')*\s(#.*)$""")
"""A comment at the end of a line."""


@dataclass(frozen=True)
class Comment:
    """What is said about one key."""

    above: tuple[str, ...]
    """The lines right above it, without indentation."""
    end: str
    """What follows on its line; empty for nothing."""


def comments(text: str, content: CommentedMap) -> dict[Path, Comment]:
    """The comments of a file by path; those in flow style (`{…}`) and in lists have none.

    Args:
        text: of the file.
        content: as ruamel read it.
    """
    lines, found, taken = text.splitlines(), dict[Path, Comment](), set[int]()
    for path, line in _keys(content, ()):
        if line in taken:  # a copy that an alias made
            continue
        taken.add(line)
        first = line
        while first and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        end = _END.search(lines[line])
        own = Comment(tuple(above.strip() for above in lines[first:line]), end[1] if end else "")
        if own.above or own.end:
            found[path] = own
    return found


def without_overridden(known: dict[Path, Comment], paths: list[Path]) -> dict[Path, Comment]:
    """The comments that stay true when the values at some paths are replaced: not those of these values, nor within
    them, nor those above the blocks that they are in."""
    gone = {path[:length] for path in paths for length in range(1, len(path) + 1)}
    return {
        path: own for path, own in known.items()
        if path not in gone and not any(path[: len(other)] == other for other in paths)
    }  # fmt: skip


def commented(content: CommentedMap, known: dict[Path, Comment], yaml: YAML) -> str:
    """A file with these comments and no others, an empty line before each section.

    Args:
        content: its comments are removed.
        yaml: writes and reads it.
    """
    _strip(content)
    stream = StringIO()
    yaml.dump(content, stream)
    text = stream.getvalue()
    lines, out, at = text.splitlines(), list[str](), 0
    for path, line in _keys(yaml.load(text), ()):
        out += lines[at:line]
        own, indent = known.get(path, Comment((), "")), " " * (len(lines[line]) - len(lines[line].lstrip()))
        out += [""] if len(path) == 1 and out else []
        out += [f"{indent}{above}" for above in own.above]
        out.append(f"{lines[line]} {own.end}".rstrip())
        at = line + 1
    return "\n".join([*out, *lines[at:]]) + "\n"


def _keys(node: Any, path: Path) -> Iterator[tuple[Path, int]]:
    """Path and line of every key of mappings in block style, in the order of a file."""
    if not isinstance(node, CommentedMap) or node.fa.flow_style():
        return
    for key, value in node.items():
        if key in (node.lc.data or {}):
            yield (*path, str(key)), node.lc.key(key)[0]
            yield from _keys(value, (*path, str(key)))


def _strip(node: Any) -> None:
    if isinstance(node, CommentedMap | CommentedSeq):
        node.ca.comment = None
        node.ca.items.clear()
        node.ca.end = []
        for value in node.values() if isinstance(node, CommentedMap) else node:
            _strip(value)
