"""What a usable caption is: text with a visible character, as valid Unicode, on one line."""

from __future__ import annotations

import unicodedata


class BadCaption(ValueError):
    """A caption that cannot be used; `reason` is a word of `vqpipe.data.reasons`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def clean_caption(raw: object) -> str:
    """Return a caption in Unicode NFC with runs of white space and control characters as single spaces.

    `raw` is `str` or `bytes`. Bytes that are no UTF-8 make a caption unusable, and so do lone surrogates,
    which are what JSON escapes and `surrogateescape` leave of such bytes.

    Raises:
        BadCaption: `empty_caption`, `caption_not_utf8` or `caption_not_text`.
    """
    if isinstance(raw, bytes):
        try:
            raw = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadCaption("caption_not_utf8") from error
    if not isinstance(raw, str):
        raise BadCaption("caption_not_text")
    if raw.isascii() and raw.isprintable():
        text = " ".join(raw.split())
    else:
        if any("\ud800" <= char <= "\udfff" for char in raw):
            raise BadCaption("caption_not_utf8")
        spaced = "".join(" " if unicodedata.category(char) == "Cc" else char for char in raw)
        text = " ".join(unicodedata.normalize("NFC", spaced).split())
        if not any(unicodedata.category(char)[0] in "LNPS" for char in text):
            text = ""
    if not text:
        raise BadCaption("empty_caption")
    return text


def printable(name: str) -> str:
    """A file name as valid Unicode: bytes that are no UTF-8 become backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
