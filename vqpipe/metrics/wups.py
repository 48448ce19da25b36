"""WUPS: accuracy of one-word answers that counts related nouns in part (Malinowski and Fritz, 2014, section 4).

The Wu-Palmer similarity of two senses (Wu and Palmer, 1994) is 2 d / (l1 + l2): d is the depth of their lowest common
hypernym in WordNet 3.0, counted from 1 at the root, l1 and l2 are the depths of the senses. The similarity of two
words is the maximum over their noun senses. Definitions agree with NLTK's `wup_similarity`: the lowest common
hypernym is the one of largest minimal depth, of several the first by name; its own depth is the longest way to the
root. l1 and l2 are that depth and the shortest way to it, which may lead over a hypernym of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float64

from vqpipe.errors import DataError
from vqpipe.metrics.texts import check_texts

RESOURCES = Path(str(files("vqpipe.metrics") / "resources"))
"""WordNet's nouns and hypernyms; `tests/wordnet_hypernyms.py` compiles them."""

BELOW = 0.1
"""A similarity below the threshold is multiplied by this."""

_ENDINGS = (
    ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"),
    ("ies", "y"),
)  # fmt: skip
"""WordNet's endings of regular plurals, and of the singular."""


def table_path(name: str, folder: Path = RESOURCES) -> Path:
    """The file of a compiled table: nouns or hypernyms."""
    return folder / f"wordnet-{name}.parquet"


class Hypernyms:
    """WordNet's noun senses, as numbers in the order of their names in NLTK. Build it through `hypernyms()`.

    Raises:
        DataError: a table is missing from the package.
    """

    def __init__(self, folder: Path = RESOURCES) -> None:
        for name in ("nouns", "hypernyms"):
            if not table_path(name, folder).is_file():
                raise DataError(
                    f"the compiled WordNet table {table_path(name).name} is missing from the package",
                    expected="a whole installation of vqpipe",
                    run="python -m tests.wordnet_hypernyms in a checkout of the repository",
                )
        nouns = pq.read_table(table_path("nouns", folder)).to_pydict()
        self._senses: dict[str, list[int]] = dict(zip(nouns["word"], nouns["senses"], strict=True))
        self._irregular: dict[str, list[str]] = {
            word: lemmas
            for word, lemmas in zip(nouns["word"], nouns["lemmas"], strict=True)
            if lemmas is not None
        }
        self._parents: list[list[int]] = (
            pq.read_table(table_path("hypernyms", folder)).column("parents").to_pylist()
        )
        self._above: dict[int, dict[int, int]] = {}
        self._depths: dict[int, tuple[int, int]] = {}
        self._similarity: dict[tuple[str, str], float | None] = {}

    def senses(self, word: str) -> list[int]:
        """The noun senses of a word in any inflected form; the words of a compound are joined by `_`."""
        lemmas = self._irregular.get(word)
        if lemmas is None:
            lemmas = [word[: -len(end)] + instead for end, instead in _ENDINGS if word.endswith(end)]
        forms = dict.fromkeys([word, *lemmas])
        return [sense for form in forms for sense in self._senses.get(form, ())]

    def similarity(self, word: str, other: str) -> float | None:
        """The largest Wu-Palmer similarity of two words' noun senses, 0..1; None where WordNet lacks one of them."""
        if (word, other) not in self._similarity:
            values = [self._of_senses(a, b) for a in self.senses(word) for b in self.senses(other)]
            self._similarity[word, other] = max(values, default=None)
        return self._similarity[word, other]

    def _of_senses(self, a: int, b: int) -> float:
        common = self._ways(a).keys() & self._ways(b).keys()
        lowest = max(self._depth(sense)[0] for sense in common)
        subsumers = [sense for sense in common if self._depth(sense)[0] == lowest]
        subsumer = a if a in subsumers else min(subsumers)
        depth = self._depth(subsumer)[1] + 1
        return 2.0 * depth / (self._distance(a, subsumer) + self._distance(b, subsumer) + 2 * depth)

    def _distance(self, a: int, b: int) -> int:
        """The length of the shortest way between two senses, up to a common hypernym and down."""
        above_a, above_b = self._ways(a), self._ways(b)
        return min(above_a[sense] + above_b[sense] for sense in above_a.keys() & above_b.keys())

    def _ways(self, sense: int) -> dict[int, int]:
        """A sense and all its hypernyms, with the shortest way to each."""
        found = self._above.get(sense)
        if found is None:
            found, level, length = {}, [sense], 0
            while level:
                new = dict.fromkeys(one for one in level if one not in found)
                found.update(dict.fromkeys(new, length))
                level, length = [parent for one in new for parent in self._parents[one]], length + 1
            self._above[sense] = found
        return found

    def _depth(self, sense: int) -> tuple[int, int]:
        """The lengths of the shortest and of the longest way from a sense to the root."""
        found = self._depths.get(sense)
        if found is None:
            parents = [self._depth(parent) for parent in self._parents[sense]]
            found = (
                1 + min((low for low, _ in parents), default=-1),
                1 + max((high for _, high in parents), default=-1),
            )
            self._depths[sense] = found
        return found


@lru_cache(maxsize=1)
def hypernyms() -> Hypernyms:
    """This process's table, loaded on first use."""
    return Hypernyms()


def wups(answers: Sequence[str], truths: Sequence[str], threshold: float) -> Float64[np.ndarray, " n"]:
    """WUPS of each answer with its true answer, 0..1; the mean over examples is WUPS at the threshold.

    Case and space at the ends do not count, and a space inside is WordNet's `_`. Equal answers have 1. Where
    WordNet lacks one of the words as a noun, other answers have 0. A similarity below the threshold is multiplied
    by `BELOW`.

    Args:
        threshold: 0..1; 0.9 and 0.0 in the paper. At 0.0 all similarities count in full.

    Raises:
        DataError: lengths that differ, something else than texts, or a threshold outside 0..1.
    """
    check_texts(answers, "answers")
    check_texts(truths, "true answers")
    if len(answers) != len(truths):
        raise DataError(
            "WUPS compares answers with true answers in pairs", found=f"{len(answers)} and {len(truths)}",
            expected="two lists of one length",
        )  # fmt: skip
    if not 0.0 <= threshold <= 1.0:
        raise DataError("the threshold of WUPS is a similarity", found=threshold, expected="0 to 1")
    values = np.zeros(len(answers), dtype=np.float64)
    for row, pair in enumerate(zip(answers, truths, strict=True)):
        answer, truth = ("_".join(word.lower().split()) for word in pair)
        if answer == truth:
            values[row] = 1.0
            continue
        similarity = hypernyms().similarity(answer, truth) or 0.0
        values[row] = similarity if similarity >= threshold else BELOW * similarity
    return values
