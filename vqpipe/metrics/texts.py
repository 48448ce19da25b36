"""Refusing what is no list of texts, for the scores of captions and of answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set

from vqpipe.errors import DataError

SHOWN = 80
"""Characters of a wrong value in a message."""


def check_list(items: object, what: str) -> None:
    """Refuse what is no list, such as a text or a mapping.

    Args:
        what: what the items are, in the plural.

    Raises:
        DataError: no list, tuple or the like.
    """
    if isinstance(items, str | bytes | Mapping | Set) or not isinstance(items, Collection):
        raise DataError(f"the {what} are no list", found=_shown(items), expected=_expected(items, "a list"))


def check_texts(texts: object, what: str) -> None:
    """Refuse what is no list of texts; an empty list is one.

    Args:
        what: what the texts are, in the plural.

    Raises:
        DataError: no list, or an item that is no text, with its row.
    """
    check_list(texts, what)
    assert isinstance(texts, Collection)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(
                f"row {row} of the {what} is no text", found=_shown(text), expected=_expected(text, "a text")
            )


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text[:SHOWN]}{'…' if len(text) > SHOWN else ''} ({type(value).__name__})"


def _expected(value: object, otherwise: str) -> str:
    """The package for COCO has its captions in dicts, which pycocoevalcap's own tokenizer takes."""
    if isinstance(value, Mapping) and "caption" in value:
        return "the text itself, which is the dict's ['caption']"
    return otherwise
