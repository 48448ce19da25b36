"""What reaches a terminal: text in which nothing moves the cursor, changes colours, or turns the order of letters.

File names, captions, categories and params come from elsewhere, and a terminal obeys what is in them. So tools and
stages print through `say`. The text of errors is made printable in `vqpipe.errors`.
"""

from __future__ import annotations

import re
import sys

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the order of letters
    "\u2028\u2029\ud800-\udfff]"  # other line ends, bytes that are no UTF-8
)


def harmless(text: str) -> str:
    """The text with control characters as backslash escapes; tabs and line feeds stay."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def say(text: str, err: bool = False, end: str = "\n") -> None:
    """Print text, made harmless, on standard output, or with `err` on standard error."""
    print(harmless(text), file=sys.stderr if err else sys.stdout, end=end, flush=True)
