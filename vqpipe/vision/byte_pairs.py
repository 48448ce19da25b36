"""CLIP's byte-pair tokenizer, without a CLIP: open_clip ships its merges."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def tokenizer() -> Any:
    """open_clip's tokenizer of the original CLIP: 49,408 tokens, lower case."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def is_single_token(word: str) -> bool:
    """Whether a word is one byte-pair token, so that the text encoder's table has a row for it."""
    return len(tokenizer().encode(word)) == 1
