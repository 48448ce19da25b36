"""How much of a corpus may be unusable before nothing is made of it, whatever the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from vqpipe.errors import DataError

UNUSABLE_MARKS = ("empty", "other_script", "other_language")
"""Marks of captions that are read but say nothing to the backends. A caption has one of them at most."""


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
            run="mend the file, the columns or the encoding that corpus names; or raise corpus.max_bad_fraction",
        )
