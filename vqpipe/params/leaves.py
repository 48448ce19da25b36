"""Nested params or metrics as paths and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str, ...]
"""The keys that lead to a value, the outermost first."""


def leaves(content: Any, lists: bool = False, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values of nested mappings with their paths, in order; an empty mapping has none.

    Args:
        content: a mapping; another value is a leaf itself.
        lists: whether the items of a list are leaves too, by their index; otherwise the list is one.
        path: of `content`.
    """
    if isinstance(content, Mapping):
        items = [(str(key), value) for key, value in content.items()]
    elif lists and isinstance(content, list | tuple):
        items = [(str(index), value) for index, value in enumerate(content)]
    else:
        yield path, content
        return
    for key, value in items:
        yield from leaves(value, lists, (*path, key))
