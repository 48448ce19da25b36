"""Captions to tokens: what is cleaned away, how long a caption may be, and where words end."""

from __future__ import annotations

import html
import re
import unicodedata

MAX_CHARACTERS = 2000
"""A caption longer than this is cut here, at a word's end (about 400 words), and counted as cut."""

STARTS_SENTENCE = frozenset({".", "!", "?", ":", '"', "\u201c"})
"""After these tokens a capital letter does not mark a name."""

MAX_ESCAPES = 4
"""How often an entity may be escaped again: `&amp;amp;#39;` is an apostrophe escaped twice more."""

_ENTITY = re.compile(
    r"&(?:#[0-9]{1,7};?|#[xX][0-9a-fA-F]{1,6};?|(?:amp|lt|gt|quot|apos|nbsp)\b;?|[a-zA-Z][a-zA-Z0-9]{1,31};)"
)
_ATTRIBUTE = r"""\s+[\w:.-]+(?:\s*=\s*(?:"[^"<>]{0,500}"|'[^'<>]{0,500}'|[^\s"'<>]{1,500}))"""
_TAG = re.compile(
    rf"<(?:/?[a-zA-Z][^\s<>]{{0,200}}(?:{_ATTRIBUTE})*\s*/?|!--[^<>]{{0,500}}--|![a-zA-Z][^<>]{{0,200}})>"
)
_WITHIN_WORDS = re.compile(
    r"[\u00ad\u200c-\u200f\u2060\ufeff]"
)  # soft hyphen, joiners, marks of direction: no spaces
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

    Letters are composed (NFC) and typographic apostrophes straight, so that a word has one spelling. Soft hyphens,
    joiners and other characters without width are dropped, so that they part no word. Entities are decoded first,
    however often they were escaped, and tags become spaces after that: `&lt;b&gt;` is a tag. What is between `<` and
    `>` but is not a tag is text.

    Marks are some of `control` (control, invisible or undecodable characters were dropped or became spaces), `markup`
    (there were tags or entities), `cut` (longer than `MAX_CHARACTERS`) and `empty` (no letter is left).
    """
    marks = []
    text = caption
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS].rpartition(" ")[0] or text[:MAX_CHARACTERS]
        marks.append("cut")
    if not (_PLAIN.fullmatch(text) and "&" not in text):
        decoded = _decoded(text) if "&" in text else text
        spaced = _SPACE.sub(" ", _WITHIN_WORDS.sub("", decoded))
        if any(_is_control(char) for char in decoded):
            marks.append("control")
        spaced = "".join(" " if "\ud800" <= char <= "\udfff" else char for char in spaced)
        bare = _TAG.sub(" ", spaced)
        if decoded != text or bare != spaced:
            marks.append("markup")
        text = unicodedata.normalize("NFC", bare).replace("\u2019", "'")
    if not any(char.isalpha() for char in text):
        marks.append("empty")
    return text, tuple(marks)


def _decoded(text: str) -> str:
    """The text with its entities decoded; one that HTML does not know becomes a space."""
    for _ in range(MAX_ESCAPES):
        decoded = _ENTITY.sub(_character, text)
        if decoded == text:
            break
        text = decoded
    return text


def _character(found: re.Match[str]) -> str:
    entity = found.group().removesuffix(";") + ";"
    for spelt in (entity, entity.lower()):
        if (decoded := html.unescape(spelt)) != spelt:
            return decoded
    return " "


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
