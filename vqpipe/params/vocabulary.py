"""Params of the stage `vocabulary`: which words stay."""

from __future__ import annotations

from pydantic import Field

from vqpipe.params.base import Params
from vqpipe.params.pos import PosParams


class VocabularyParams(Params):
    """Which adjectives and nouns of the captions become codes."""

    pos: PosParams
    """The part-of-speech backend."""
    min_count: int = Field(ge=1)
    """A word must be said at least this often (VQCT keeps words said more than 10 times: 11)."""
    max_adjectives: int | None = Field(ge=1)
    """At most this many adjectives, the most frequent ones; null: all."""
    max_nouns: int | None = Field(ge=1)
    """At most this many nouns, the most frequent ones; null: all."""
    single_clip_tokens: bool = False
    """Keep only words that are one byte-pair token of CLIP, so that a code is an entry of the language model's
    own vocabulary; the caps count what is left."""
