"""What every part-of-speech backend offers: tagged words, and the pairs of adjective and noun among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import ClassVar, Literal, NamedTuple, TypeVar

from vqpipe.params.base import Params
from vqpipe.text.tokens import clean, tokenize

T = TypeVar("T")


class PosParams(Params):
    """The base of the backends' params."""

    kind: str
    """The backend's name in `vqpipe.text.pos.TAGGERS`."""


class PhraseParams(Params):
    """What counts as an adjective that modifies a noun, in addition to the adjectives before it."""

    predicative: bool
    """Count "the bird is red" too."""
    shades: Literal["noun", "color"]
    """What "dark" belongs to in "a dark red bird" (likewise light, pale, deep): `noun`, so that both (dark, bird) and
    (red, bird) count, or `color`, so that only (red, bird) does."""


class Word(NamedTuple):
    """One token of a caption.

    `text` is in lower case; `lemma` is the singular of a noun and else the text; `pos` is one of the names in
    `vqpipe.text.english.POS`: adjective, noun, verb, adverb, determiner, …
    """

    text: str
    lemma: str
    pos: str


class Analysis(NamedTuple):
    """What a backend finds in one caption."""

    words: list[Word]
    pairs: list[tuple[int, int]]
    """Positions (adjective, noun) of each modification, without repeats; empty where none were requested."""

    def pair_words(self) -> list[tuple[str, str]]:
        """(adjective, singular noun) of each modification."""
        return [(self.words[adjective].text, self.words[noun].lemma) for adjective, noun in self.pairs]


class Tagger:
    """The base of the part-of-speech backends. Equal lists of captions give equal words, in any process.

    A backend defines `analyse_tokens`, takes its params in its constructor, and has a line in
    `vqpipe.text.pos.TAGGERS`. All of them split captions by `vqpipe.text.tokens`, so that their words and counts can be
    compared.
    """

    kind: ClassVar[str]
    Params: ClassVar[type[PosParams]]
    max_chunks_alone: ClassVar[int] = 1
    """Up to this many chunks of captions (`vqpipe.text.counting`) run in the calling process, where starting workers
    would cost more than it gains."""
    chunks_per_worker: ClassVar[int | None] = None
    """After how many chunks a worker process is replaced, for backends whose memory grows; None: never."""

    def analyse_tokens(
        self, captions: Iterable[Sequence[str]], phrases: PhraseParams | None
    ) -> Iterator[Analysis]:
        """Tag captions that are split already, a word for each token; find pairs where `phrases` is given."""
        raise NotImplementedError

    def analyse(self, captions: Iterable[str], phrases: PhraseParams | None) -> Iterator[Analysis]:
        """Clean, split and tag each caption, in order, and find pairs where `phrases` is given. Takes any strings."""
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
