"""Small pieces of Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vqpipe.runtime.terminal import harmless

_NUMBER = re.compile(r"-?[\d,.]+(e[-+]?\d+)?( %)?")


def escape(text: object) -> str:
    """Text that no Markdown or HTML reader takes for markup."""
    shown = harmless(" ".join(str(text).split()))
    for char in "\\|`*_[]<":
        shown = shown.replace(char, f"\\{char}" if char != "<" else "&lt;")
    return shown


def value(item: Any) -> str:
    """A fact as text: numbers with separators, mappings as `name: value`."""
    if item is None:
        return "none"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, int):
        return f"{item:,}"
    if isinstance(item, float):
        return f"{item:,.4g}"
    if isinstance(item, Mapping):
        return ", ".join(f"{escape(key)}: {value(own)}" for key, own in item.items())
    if isinstance(item, list):
        return "; ".join(value(own) for own in item) or "none"
    return escape(item) if isinstance(item, str) else escape(json.dumps(item))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table; numbers stand to the right."""
    cells = [list(row) for row in rows]
    numeric = [
        bool(cells) and all(_NUMBER.fullmatch(value(row[at])) for row in cells) for at in range(len(columns))
    ]
    return [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join('--:' if right else '---' for right in numeric)}|",
        *(f"| {' | '.join(value(cell) for cell in row)} |" for row in cells),
    ]


def bullets(lines: Iterable[str]) -> list[str]:
    """A list; the lines are Markdown already."""
    return [f"- {line}" for line in lines]


def section(title: str, *parts: Sequence[str]) -> list[str]:
    """A heading and its parts, with empty lines between them; parts without lines are left out."""
    lines = [f"## {title}"]
    for part in parts:
        if part:
            lines += ["", *part]
    return [*lines, ""]
