"""Captions to tokens: what is cleaned away, how long a caption may be, and where words end."""

from __future__ import annotations

import re
import unicodedata

MAX_CHARACTERS = 2000
"""A caption longer than this is cut here, at a word's end (about 400 words), and counted as cut."""

STARTS_SENTENCE = frozenset({".", "!", "?", ":", '"', "\u201c"})
"""After these tokens a capital says nothing."""

_HTML = re.compile(r"<[^<>]{0,200}>|&[a-zA-Z]{2,8};|&#\d{1,6};")
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ufffd\u200b-\u200f\u2028-\u202e\u2060\ufeff]+")
_PLAIN = re.compile(r"[ -;=?-~]*")  # printable ASCII without < and >: nothing to clean
_WORD = (
    r"[^\W_]+(?:['\u2019](?!s\b)[^\W_]+)*(?:-[^\W_]+(?:['\u2019](?!s\b)[^\W_]+)*)*"  # words; a hyphen joins
    r"|['\u2019]s\b"
    r"|[^\w\s]|_"
)
_TOKEN = re.compile(_WORD)
_INITIALS = re.compile(
    rf"(?<![^\W_])(?:(?:[^\W\d_]\.){{2,}}|[A-Z]\.[A-Z])(?![^\W_])|{_WORD}"  # U.S., T.V
)


def clean(caption: str) -> tuple[str, tuple[str, ...]]:
    """Make one line of plain text of a caption, and say what had to be done.

    Letters are composed (NFC) and typographic apostrophes straight, so that a word has one spelling.

    Marks are some of `control` (control or undecodable characters became spaces), `markup` (tags and entities
    became spaces), `cut` (longer than `MAX_CHARACTERS`) and `empty` (no letter is left).
    """
    marks = []
    text = caption
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS].rpartition(" ")[0] or text[:MAX_CHARACTERS]
        marks.append("cut")
    if not (_PLAIN.fullmatch(text) and "&" not in text):
        spaced = _SPACE.sub(" ", text)
        if any(_is_control(char) for char in text):
            marks.append("control")
        spaced = "".join(" " if "\ud800" <= char <= "\udfff" else char for char in spaced)
        bare = _HTML.sub(" ", spaced)
        if bare != spaced:
            marks.append("markup")
        text = unicodedata.normalize("NFC", bare).replace("\u2019", "'")
    if not any(char.isalpha() for char in text):
        marks.append("empty")
    return text, tuple(marks)


def _is_control(char: str) -> bool:
    return char == "\ufffd" or (unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in "\t\n\r")


def tokenize(text: str) -> list[str]:
    """Split cleaned text into words (hyphens and inner apostrophes join), possessive endings and signs.

    Initials are one word with their points: "U.S.", "T.V".
    """
    return _pattern(text).findall(text)


def token_spans(text: str) -> list[tuple[int, int]]:
    """Where each token of `tokenize` begins and ends in the text, in characters."""
    return [found.span() for found in _pattern(text).finditer(text)]


def _pattern(text: str) -> re.Pattern[str]:
    """The slower pattern only where a point that does not end the text may belong to initials."""
    return _INITIALS if 0 < text.find(".") < len(text) - 1 else _TOKEN
