"""What a usable caption is: text with a visible character, in valid Unicode. And what an identifier is."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from vqpipe.errors import printable

_WHOLE = re.compile(r"(0|-?[1-9][0-9]*)\.0")
"""A whole number as tools write a column that has gaps."""


class BadCaption(ValueError):
    """A caption that cannot be used; `reason` is a word of `vqpipe.data.records.SIDE_REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unusable(Counter[str]):
    """How many captions were left out, by a reason of `vqpipe.data.records`, and what else a reader noted."""

    def __init__(self) -> None:
        super().__init__()
        self.examples: dict[str, str] = {}
        """The first caption left out for each reason: its id and how it begins."""
        self.without_id = 0
        """Captions whose source has ids but gives them none; they are read."""
        self.other_splits = 0
        """Captions of splits that are not for training; they are skipped."""
        self.hint = ""
        """What the source has instead, where it lacks captions."""

    def leave_out(self, reason: str, caption_id: str, raw: object) -> None:
        """Count a caption that cannot be used."""
        self[reason] += 1
        if reason not in self.examples:
            shown = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else str(raw)
            self.examples[reason] = f"{caption_id}: '{printable(shown[:60].strip())}'"


def usable_caption(raw: object) -> str:
    """Return a caption as it was written, but for white space at its ends.

    `raw` is `str` or `bytes`. Bytes that are not UTF-8 make a caption unusable, and so do lone surrogates,
    which are what JSON escapes and `surrogateescape` leave of such bytes, and zero bytes between the letters.

    Raises:
        BadCaption: `empty_caption` (no letter, number, sign or symbol), `caption_not_utf8` or
            `caption_not_text`.
    """
    try:
        if isinstance(raw, bytes):
            raw = raw.decode("utf-8")
        elif not isinstance(raw, str):
            raise BadCaption("caption_not_text")
        elif not raw.isascii():
            raw.encode("utf-8")
    except UnicodeError as error:
        raise BadCaption("caption_not_utf8") from error
    text = raw.strip()
    plain = text.isascii() and text.isprintable()
    if not (text if plain else any(unicodedata.category(char)[0] in "LNPS" for char in text)):
        raise BadCaption("empty_caption")
    if not plain and 3 * text.count("\0") > len(text):  # lines of UTF-16 that were appended to UTF-8
        raise BadCaption("caption_not_utf8")
    return text


def clean_caption(raw: object) -> str:
    """Return a caption in Unicode NFC with runs of white space and control characters as single spaces.

    Raises:
        BadCaption: it is not usable; see `usable_caption`.
    """
    text = usable_caption(raw)
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    spaced = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    return " ".join(unicodedata.normalize("NFC", spaced).split())


def clean_captions(raws: Iterable[object]) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """The usable captions, cleaned, and (reason, detail) for each of the others."""
    captions: list[str] = []
    bad: list[tuple[str, str]] = []
    for raw in raws:
        try:
            captions.append(clean_caption(raw))
        except BadCaption as error:
            bad.append((error.reason, printable(f"{raw!r}"[:80])))
    return tuple(captions), bad


def identifier(value: object) -> str | None:
    """The text of an identifier from a JSON value, the same for 1, 1.0 and "1"; None where it names nothing.

    Strings lose white space at their ends, and are `printable`; "1.0" is 1. True and false,
    null, NaN, the infinities, an empty string, lists and objects name nothing.
    """
    if isinstance(value, str):
        text = printable(value.strip())
        return (text.partition(".")[0] if _WHOLE.fullmatch(text) else text) or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) else str(value)
