"""A tagged word, and what every part-of-speech backend offers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from vqpipe.params.graph import PhraseParams


class Word(NamedTuple):
    """One token of a caption.

    `text` is in lower case; `lemma` is the singular of a noun and else the text; `pos` is one of the names in
    `vqpipe.text.closed_class.POS`: adjective, noun, verb, adverb, determiner, …
    """

    text: str
    lemma: str
    pos: str


class Analysis(NamedTuple):
    """What a backend finds in one caption."""

    words: list[Word]
    pairs: list[tuple[int, int]]
    """Positions (adjective, noun) of each modification; empty where none were asked for."""


class Tagger(Protocol):
    """A part-of-speech backend. Equal captions give equal words, in any process and any order."""

    @property
    def colors(self) -> frozenset[str]:
        """Colour adjectives, for "dark red"."""

    @property
    def compounds(self) -> frozenset[str]:
        """Nouns of two words, such as "high school" and "fire hydrant"."""

    def analyse(self, captions: Sequence[str], phrases: PhraseParams | None) -> Iterator[Analysis]:
        """Clean, split, tag and, where `phrases` is given, pair each caption, in order."""

    def tag(self, caption: str) -> list[Word]:
        """Clean, split and tag one caption."""

    def tag_tokens(self, tokens: Sequence[str]) -> list[Word]:
        """Tag one caption that is split already; one word for each token, in order."""
