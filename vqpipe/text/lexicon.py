"""The compiled WordNet at run time: the tags a word can have, and the lemma of a noun."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from math import log
from pathlib import Path

import pyarrow.parquet as pq

from vqpipe.errors import DataError
from vqpipe.text.english import PLURAL_ONLY, TAGS, closed_words

RESOURCES = Path(str(files("vqpipe.text") / "resources"))
"""The compiled tables; `tests/wordnet_tables.py` compiles them from WordNet."""

Candidates = tuple[tuple[int, float], ...]
"""For one word: tags by number in `TAGS`, each with the logarithm of its share of the word's uses."""

SENSE_WEIGHT = 0.3
"""What a sense without any count is worth, in occurrences."""

_NOUN_ENDINGS = (
    ("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("zes", "z"), ("ses", "s"), ("oes", "o"),
    ("ves", "f"), ("men", "man"), ("s", ""),
)  # fmt: skip
_VERB_ENDINGS = {
    "V": (("ies", "y"), ("es", ""), ("es", "e"), ("s", "")),
    "P": (("ied", "y"), ("ed", "e"), ("ed", "")),
    "G": (("ying", "ie"), ("ing", "e"), ("ing", "")),
}
_VERB_SHARES = {"V": 0.2, "P": 0.35, "G": 0.2}
"""Share of a verb's uses that have this inflected form; the base form has 0.35."""
_GUESSES = (
    (("ly",), {"R": 0.8, "J": 0.2}),
    (("ing",), {"G": 0.6, "N": 0.4}),
    (("ed",), {"P": 0.5, "J": 0.4, "N": 0.1}),
    (
        ("able", "ible", "ous", "ful", "ish", "less", "ic", "ical", "ive", "esque", "most"),
        {"J": 0.8, "N": 0.2},
    ),
    (("ness", "tion", "ment", "ity", "ism", "ist", "ship"), {"N": 1.0}),
)
_PARTICIPLES = (
    "ed",
    "en",
    "ing",
    "old",
    "like",
    "free",
    "sized",
    "style",
    "looking",
    "long",
    "high",
    "wide",
    "less",
)


def table_path(name: str, folder: Path = RESOURCES) -> Path:
    """The file of a compiled table: words, forms or compounds."""
    return folder / f"wordnet-{name}.parquet"


class Lexicon:
    """Words of WordNet and of the closed classes. Build it through `lexicon()`: one copy for each process."""

    def __init__(self, folder: Path = RESOURCES) -> None:
        for name in ("words", "forms", "compounds"):
            if not table_path(name, folder).is_file():
                raise DataError(
                    f"the compiled WordNet table {table_path(name).name} is missing from the package",
                    expected="a whole installation of vqpipe",
                    run="python -m tests.wordnet_tables in a checkout of the repository",
                )
        words = pq.read_table(table_path("words", folder)).to_pydict()
        self._rows = {word: row for row, word in enumerate(words["word"])}
        self._weight = {
            tag: [
                count + SENSE_WEIGHT * senses
                for count, senses in zip(words[f"{name}_count"], words[f"{name}_senses"], strict=True)
            ]
            for tag, name in {"N": "noun", "V": "verb", "J": "adjective", "R": "adverb"}.items()
        }
        self.colors = frozenset(
            word for word, color in zip(words["word"], words["color"], strict=True) if color
        )
        forms = pq.read_table(table_path("forms", folder)).to_pylist()
        self._irregular: dict[tuple[str, str], list[str]] = {}
        for row in forms:
            tag = {"noun": "N", "verb": "V", "adjective": "J", "adverb": "R"}[row["pos"]]
            self._irregular.setdefault((row["form"], tag), []).append(row["lemma"])
        self.compounds = frozenset(
            pq.read_table(table_path("compounds", folder)).column("compound").to_pylist()
            + [
                word.replace("-", " ")
                for word in self._rows
                if word.count("-") == 1 and self.weight(word, "N")
            ]
        )
        self._closed = closed_words()
        self.seen: dict[str, Candidates] = {}
        """What `candidates` has found so far."""
        self._lemmas: dict[str, str] = {}
        self._known: dict[str, bool] = {}

    def weight(self, word: str, tag: str) -> float:
        """How much WordNet has of a lemma in a class: occurrences and a little for each sense, or 0."""
        row = self._rows.get(word)
        return 0.0 if row is None else self._weight[tag][row]

    def candidates(self, word: str) -> Candidates:
        """The tags of a lower-case word. Never empty: an unknown word is guessed from its form."""
        found = self.seen.get(word)
        if found is None:
            weights = self._closed.get(word) or self._open(word) or self._formed(word) or _guess(word)
            total = sum(weights.values())
            found = tuple((TAGS.index(tag), log(weight / total)) for tag, weight in weights.items())
            if len(self.seen) < 1_000_000:  # a bound on memory for texts without end
                self.seen[word] = found
        return found

    def is_closed(self, word: str) -> bool:
        """Whether a lower-case word belongs to the closed classes."""
        return word in self._closed

    def knows(self, word: str) -> bool:
        """Whether a lower-case word is of the closed classes or, in some form, in WordNet."""
        known = self._known.get(word)
        if known is None:
            known = word in self._closed or bool(self._open(word))
            if len(self._known) < 1_000_000:
                self._known[word] = known
        return known

    def _open(self, word: str) -> dict[str, float]:
        if word[0].isdigit() and not any(char.isalpha() for char in word):
            return {"M": 1.0}  # WordNet has "5" as an adjective
        weights = {tag: self.weight(word, tag) for tag in "NJR"}
        weights["V"] = 0.35 * self.weight(word, "V")
        lemma = self._plural_of(word)
        if lemma:
            weights["N"] = max(weights["N"], 0.3 * self.weight(lemma, "N"))
        for tag, share in _VERB_SHARES.items():
            amount = share * max(
                (self.weight(base, "V") for base in _bases(word, _VERB_ENDINGS[tag])), default=0.0
            )
            if amount:
                weights[tag] = weights.get(tag, 0.0) + amount
                if tag == "P":
                    weights["V"] += 0.4 * amount
        for base in self._irregular.get((word, "V"), ()):
            tag = "G" if word.endswith("ing") else "P"
            amount = 0.35 * self.weight(base, "V")
            weights[tag] = weights.get(tag, 0.0) + amount
            if tag == "P" and not word.endswith("n"):
                weights["V"] += amount
        if not weights["J"]:
            weights["J"] = 0.1 * max((self.weight(base, "J") for base in self._graded(word)), default=0.0)
        return {tag: weight for tag, weight in weights.items() if weight > 0}

    def _formed(self, word: str) -> dict[str, float]:
        """The tags of an adjective in -y that is formed from a known noun or verb: pointy, stripey."""
        if len(word) > 4 and word.endswith("y"):
            bases = (word[:-1], f"{word[:-1]}e", f"{word[:-2]}e", word[:-2])
            if any(len(base) > 3 and self.weight(base, tag) >= 1 for base in bases for tag in "NV"):
                return {"J": 0.7, "N": 0.3}
        return {}

    def _graded(self, word: str) -> list[str]:
        """What a comparative or superlative may be formed from."""
        bases = [*self._irregular.get((word, "J"), ())]
        for ending in ("er", "est"):
            bases += _bases(word, ((ending, ""), (ending, "e"), (f"i{ending}", "y")))
        return bases

    def _plural_of(self, word: str) -> str | None:
        irregular = [lemma for lemma in self._irregular.get((word, "N"), ()) if self.weight(lemma, "N")]
        if irregular:
            if word.endswith(("ses", "xes")) and self.weight(word[:-1], "N"):
                return word[:-1]  # bases of base, not of basis
            return max(irregular, key=lambda lemma: self.weight(lemma, "N"))
        if word.endswith("ss"):
            return None
        known = [base for base in _bases(word, _NOUN_ENDINGS) if self.weight(base, "N")]
        return max(known, key=lambda lemma: self.weight(lemma, "N")) if known else None

    def noun_lemma(self, word: str) -> str:
        """The singular of a lower-case noun; the word itself where WordNet has it more often or not at all.

        Of "city-buses" only the last part changes. An unknown plural in -s loses its ending.
        """
        lemma = self._lemmas.get(word)
        if lemma is None:
            lemma = self._lemma(word)
            if len(self._lemmas) < 1_000_000:
                self._lemmas[word] = lemma
        return lemma

    def _lemma(self, word: str) -> str:
        if word in PLURAL_ONLY:
            return word
        plural_of, own = self._plural_of(word), self.weight(word, "N")
        if plural_of:
            if own and word.endswith("a"):  # cola is not the plural of colon, nor opera of opus
                return word
            other = self.weight(plural_of, "N")
            tie = own == other and not (word[:-1] == plural_of and _loses_s(word))  # buns are several
            return word if own > other or tie else plural_of
        if own:
            return word
        if irregular := self._irregular.get((word, "N")):
            return irregular[0]  # WordNet lists rectrices, and not the rectrix
        if "-" in word:
            start, _, last = word.rpartition("-")
            return f"{start}-{self.noun_lemma(last)}" if last else word
        if _loses_s(word) and not word.endswith("os"):
            return word[:-1]
        return word


def _bases(word: str, endings: tuple[tuple[str, str], ...]) -> list[str]:
    bases = []
    for ending, instead in endings:
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stem = word[: -len(ending)]
            bases.append(stem + instead)
            if not instead and ending in ("ed", "ing", "er", "est") and stem[-1] == stem[-2]:
                bases.append(stem[:-1])  # running, bigger
    return bases


def _loses_s(word: str) -> bool:
    """Whether a word in -s looks like a plural."""
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "as"))


def _guess(word: str) -> dict[str, float]:
    if not any(char.isalpha() for char in word):
        return {"M": 1.0} if any(char.isdigit() for char in word) else {"Z": 1.0}
    if "-" in word:
        return {"J": 0.75, "N": 0.25} if word.endswith(_PARTICIPLES) else {"J": 0.4, "N": 0.6}
    for endings, weights in _GUESSES:
        if word.endswith(endings) and len(word) > 4:
            return weights
    if word[0].isdigit():
        return {"M": 0.7, "N": 0.3}
    return {"N": 0.9, "J": 0.06, "V": 0.04}


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """This process's lexicon, loaded on first use (a tenth of a second)."""
    return Lexicon()
