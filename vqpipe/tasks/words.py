"""The words of captions, questions and expressions as numbers.

Letters: n texts, t words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor

from vqpipe.errors import DataError
from vqpipe.text.tokens import clean, tokenize

PAD, UNKNOWN, START, END = range(4)
"""Numbers that are no word: after the end, a word that the vocabulary lacks, and the ends of a text."""
SPECIALS = 4


def words_of(text: str) -> list[str]:
    """A text's words and signs in order, in lower case, without markup (`vqpipe.text.tokens`)."""
    return [word.lower() for word in tokenize(clean(text)[0])]


def has_word(text: str) -> bool:
    """Whether a text has a word; signs alone are none."""
    return any(map(str.isalnum, "".join(words_of(text))))


@dataclass(frozen=True)
class Vocabulary:
    """Words by number, from `SPECIALS` on, the most frequent first."""

    words: tuple[str, ...]
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_numbers", {word: at for at, word in enumerate(self.words, SPECIALS)})

    @classmethod
    def of(cls, texts: Iterable[str], min_count: int = 1) -> Vocabulary:
        """The words that some texts have `min_count` times or more; equally frequent ones in order of the alphabet.

        Raises:
            DataError: no such word.
        """
        counts = Counter(word for text in texts for word in words_of(text))
        kept = sorted((-count, word) for word, count in counts.items() if count >= min_count)
        if not kept:
            raise DataError(
                "the texts have no word",
                found=f"{len(counts)} words",
                expected=f"one that occurs {min_count} times",
            )
        return cls(tuple(word for _, word in kept))

    def __len__(self) -> int:
        """Numbers in use, with those that are no word."""
        return SPECIALS + len(self.words)

    def encode(
        self, texts: Sequence[str], max_words: int, ends: bool = False
    ) -> tuple[Int64[Tensor, "n t"], int]:
        """Texts as numbers, `PAD` at the end, and how many texts were longer than `max_words` and are cut.

        Args:
            texts: at least one.
            max_words: t, without the two ends.
            ends: put `START` before and `END` after each text, also after one that is cut; t is then two more.
        """
        out = torch.full((len(texts), max_words + 2 * ends), PAD, dtype=torch.int64)
        long = 0
        for row, text in enumerate(texts):
            numbers = [self._numbers.get(word, UNKNOWN) for word in words_of(text)]
            long += len(numbers) > max_words
            numbers = numbers[:max_words]
            numbers = [START, *numbers, END] if ends else numbers
            out[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
        return out, long

    def asked(self, texts: Sequence[str], max_words: int) -> tuple[Int64[Tensor, "n t"], list[str]]:
        """Texts of a user as numbers, and for each what was not understood of it, to follow the answer; else "".

        Words that the head has no number for are unknown; signs are no words.

        Raises:
            DataError: a text without a known word; signs do not count.
        """
        notes = []
        for text in texts:
            words = words_of(text)
            signs = {word for word in words if not any(map(str.isalnum, word))}
            unknown = list(dict.fromkeys(word for word in words if word not in self._numbers.keys() | signs))
            if not set(words[:max_words]) - {*unknown, *signs}:  # a question mark alone is no question
                raise DataError(
                    "no word of the text is known", found=text, expected="words as in the training texts, such as "
                    + ", ".join(self.words[:8]),
                )  # fmt: skip
            parts = [f"unknown: {', '.join(unknown)}"] if unknown else []
            parts += [f"only the first {max_words} words were read"] if len(words) > max_words else []
            notes.append(f" ({'; '.join(parts)})" if parts else "")
        return self.encode(texts, max_words)[0], notes

    def decode(self, numbers: Sequence[int]) -> str:
        """The words up to `END`, with spaces between; `<unk>` for an unknown one, nothing for other numbers."""
        found: list[str] = []
        for number in numbers:
            if number == END:
                break
            if number == UNKNOWN or number >= SPECIALS:
                found.append("<unk>" if number == UNKNOWN else self.words[number - SPECIALS])
        return " ".join(found)
