"""A tagged word, and what every part-of-speech backend offers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

from vqpipe.params.graph import PhraseParams
from vqpipe.text.tokens import clean, tokenize

T = TypeVar("T")


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
    """Positions (adjective, noun) of each modification, without repeats; empty where none were asked for."""

    def pair_words(self) -> list[tuple[str, str]]:
        """(adjective, singular noun) of each modification."""
        return [(self.words[adjective].text, self.words[noun].lemma) for adjective, noun in self.pairs]


class Tagger(Protocol):
    """A part-of-speech backend. Equal lists of captions give equal words, in any process.

    A backend inherits from this and defines `analyse_tokens`. All of them split captions by
    `vqpipe.text.tokens`, so that their words and counts can be compared.
    """

    def analyse_tokens(
        self, captions: Iterable[Sequence[str]], phrases: PhraseParams | None
    ) -> Iterator[Analysis]:
        """Tag and, where `phrases` is given, pair captions that are split already: a word for each token."""
        ...

    def analyse(self, captions: Iterable[str], phrases: PhraseParams | None) -> Iterator[Analysis]:
        """Clean, split, tag and, where `phrases` is given, pair each caption, in order. Any string will do."""
        return self.analyse_tokens((tokenize(clean(caption)[0]) for caption in captions), phrases)

    def tag(self, caption: str) -> list[Word]:
        """Clean, split and tag one caption."""
        return next(self.analyse((caption,), None)).words

    def tag_tokens(self, tokens: Sequence[str]) -> list[Word]:
        """Tag one caption that is split already; one word for each token, in order."""
        return next(self.analyse_tokens((tokens,), None)).words


def batched(items: Iterable[T], length: int) -> Iterator[list[T]]:
    """Lists of up to `length` items, in order."""
    iterator = iter(items)
    while batch := list(islice(iterator, length)):
        yield batch
