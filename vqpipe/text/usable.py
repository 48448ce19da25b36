"""Which captions are usable: English ones, by script and words; and how many of a corpus may be unusable."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from vqpipe.errors import DataError
from vqpipe.text.lexicon import lexicon

UNUSABLE_MARKS = ("empty", "other_script", "other_language")
"""Marks of captions that are read but mean nothing to the backends. A caption has at most one of them."""


@dataclass(frozen=True)
class Limit:
    """The highest share of unusable captions, and what the reader of the captions left out."""

    most: float = 1.0
    """0 to 1."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Captions that the reader leaves out, by reason; it counts while they are read."""
    examples: Mapping[str, str] = field(default_factory=dict)
    """A caption of each of its reasons."""

    def reasons(self, text: Mapping[str, int]) -> Counter[str]:
        """Unusable captions by reason: what was left out, and `UNUSABLE_MARKS` of the counts of a text."""
        return self.left_out + Counter({mark: text[mark] for mark in UNUSABLE_MARKS if text[mark]})

    def share(self, text: Mapping[str, int]) -> float:
        """Share of the captions that is unusable; `text` has the number of `captions` that were read."""
        total = text["captions"] + self.left_out.total()
        return self.reasons(text).total() / max(1, total)

    def check(self, text: Counter[str], examples: Mapping[str, str]) -> None:
        """Refuse a corpus of which too much is unusable.

        Args:
            text: counts of the captions that were read, `captions` and marks.
            examples: a caption of each mark.

        Raises:
            DataError: the share is above `most`; the message has the reasons with their counts, and an example.
        """
        if self.share(text) <= self.most:
            return
        reasons = self.reasons(text)
        shown = {**examples, **self.examples}
        first = reasons.most_common(1)[0][0]
        example = f"; {first} is such as {shown[first]}" if first in shown else ""
        raise DataError(
            f"corpus: {self.share(text):.1%} of the captions are unusable",
            found=f"of {text['captions'] + self.left_out.total():,}: "
            + ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
            + example,
            expected=f"at most corpus.max_bad_fraction = {self.most:g} of them; English text",
            run="correct the file, the columns or the encoding that corpus names; or raise corpus.max_bad_fraction",
        )


_WORDS = {
    "plain": "the with and from this that which their his its while near behind standing sitting white",
    "ambiguous": "a an in on as so at to of i is no do me or per for by her was not out",
    "german": "ein eine einem einen einer eines der das dem und mit auf ist sind im vor neben über unter ihr",
    "french": "un une le la les des du dans avec et sur est qui deux au aux",
    "spanish": "una unos el los las del con y en de dos sobre junto",
    "italian": "il lo gli di che sul nel della dello degli alla",
    "portuguese": "um uma os da dos em com ao duas",
    "dutch": "een het van met op twee naast",
    "scandinavian": "ett och på med som av det är står og en ved",
    "polish and czech": "w z na się jest oraz przez",
    "others": "ve bir ile yang dengan di sebuah và một của trên și cu pe lângă egy és az ja",
}
_PLAINLY_ENGLISH = frozenset(
    form for word in _WORDS.pop("plain").split() for form in (word, word.capitalize())
)
"""Words that hardly any other language has; most English captions have one."""
_AMBIGUOUS = frozenset(_WORDS.pop("ambiguous").split())
"""Closed-class words of English that other languages have too."""
_FOREIGN = frozenset(word for words in _WORDS.values() for word in words.split())
"""Frequent words of other languages in Latin script that English captions lack."""
_ASCII_LETTER = re.compile("[A-Za-z]")


def is_other_script(line: str) -> bool:
    """Whether most letters of a cleaned caption are not Latin; full-width letters are not.

    False for a caption without letters.
    """
    if line.isascii():
        return False
    latin = len(_ASCII_LETTER.findall(line))
    other = 0
    for char in line:
        if not char.isascii() and char.isalpha():
            if _is_latin(char):
                latin += 1
            else:
                other += 1
    return other > latin


@lru_cache(maxsize=4096)
def _is_latin(char: str) -> bool:
    return unicodedata.name(char, "").startswith("LATIN")


def is_other_language(tokens: Sequence[str]) -> bool:
    """Whether most words of a caption in Latin script are neither English nor numbers, by the lexicon.

    Words that are frequent in other languages count as foreign, since WordNet has many as names and units. Unknown
    words by themselves decide only where there are three or more; capitalised ones, which may be names, count half. So
    captions of one or two words are taken as they are.
    """
    if not _PLAINLY_ENGLISH.isdisjoint(tokens):
        return False
    words = [token for token in tokens if token[0].isalpha()]
    if len(words) < 2:
        return False
    known = lexicon()
    foreign = unknown = names = english = 0
    for word in words:
        lower = word.lower()
        if lower in _FOREIGN:
            foreign += 1
        elif not known.knows(lower):
            unknown += 1
            names += word[0].isupper()
        elif lower not in _AMBIGUOUS and known.is_closed(lower):
            english += 1
    strange = foreign + unknown
    enough = strange >= 2 if foreign else strange - names / 2 >= 2.5
    return enough and 2 * strange >= len(words) and strange > 2 * english
