"""What reaches a terminal: text in which nothing moves the cursor, changes colours, or turns the order of letters.

File names, captions, categories and params come from elsewhere, and a terminal obeys what is in them. So tools and
stages print through `say`. The text of errors is made printable in `vqpipe.errors`.
"""

from __future__ import annotations

import sys

from vqpipe.errors import printable


def harmless(text: str) -> str:
    """The text with control characters as backslash escapes; tabs and line feeds stay."""
    if text.isprintable():
        return text
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def say(text: str, err: bool = False, end: str = "\n") -> None:
    """Print text, made harmless, on standard output, or with `err` on standard error.

    Letters that the encoding of the output lacks, as ASCII's under `LC_ALL=C`, become backslash escapes.
    """
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "utf-8"
    shown = harmless(text).encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=stream, end=end, flush=True)
