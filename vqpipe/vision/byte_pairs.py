"""CLIP's byte-pair tokenizer, without a CLIP: open_clip ships its merges."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

START, END = 49406, 49407
"""Ids of the start and the end token. Padding is 0, which is also the token `!`: lengths distinguish them."""


class Piece(NamedTuple):
    """A stretch of a text with its place there and its tokens: what CLIP's tokenizer takes as one word, or a single
    token of a sentence model."""

    start: int
    stop: int
    ids: tuple[int, ...]


@cache
def tokenizer() -> Any:
    """open_clip's tokenizer of the original CLIP: 49,408 tokens, lower case."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def is_single_token(word: str) -> bool:
    """Whether a word is one byte-pair token, so that the text encoder's table has a row for it."""
    return len(tokenizer().encode(word)) == 1


def normalised(text: str) -> str:
    """A text as CLIP's tokenizer reads it: repaired Unicode, entities decoded, single spaces, lower case."""
    return str(tokenizer().clean_fn(text))


def pieces(text: str) -> list[Piece]:
    """The pieces of a `normalised` text in order; their ids together are the text's, without start and end."""
    return [
        Piece(found.start(), found.end(), _ids(found.group())) for found in tokenizer().pat.finditer(text)
    ]


@cache
def _ids(piece: str) -> tuple[int, ...]:
    own = tokenizer()
    symbols = "".join(own.byte_encoder[byte] for byte in piece.encode("utf-8"))
    return tuple(own.encoder[part] for part in own.bpe(symbols).split(" "))
