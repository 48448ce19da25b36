"""The vocabulary: which adjectives and nouns the captions have, which of them stay, and the pairs of those."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from vqpipe.artifacts.intact import reads_whole
from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.codebooks import (
    ADJECTIVES,
    NOUNS,
    PAIRS,
    VOCABULARY,
    read_word_counts,
    write_word_counts,
)
from vqpipe.artifacts.tables import read_table, to_table, write_table
from vqpipe.errors import ArtifactError, DataError
from vqpipe.params.base import Params, validate
from vqpipe.runtime.terminal import track
from vqpipe.text.counting import MARKS, WORDS, Merged, Pairs, Repeats, count_captions, merge_words
from vqpipe.text.phrases import PLAIN
from vqpipe.text.pos import AnyPos, pos_params
from vqpipe.text.tagger import PhraseParams, PosParams
from vqpipe.text.usable import Limit

Keep = Callable[[str], bool]
"""Whether a word may stay, at any count."""


class VocabularyParams(Params):
    """Which adjectives and nouns of the captions become codes, and what pairs them."""

    pos: AnyPos
    """The part-of-speech backend."""
    phrases: PhraseParams
    """What counts as an adjective that modifies a noun."""
    min_count: int = Field(ge=1)
    """A word must occur at least this often (VQCT keeps words that occur more than 10 times: 11)."""
    max_adjectives: int | None = Field(ge=1)
    """At most this many adjectives, the most frequent ones; null: all."""
    max_nouns: int | None = Field(ge=1)
    """At most this many nouns, the most frequent ones; null: all."""
    single_clip_tokens: bool = False
    """Keep only words that are one byte-pair token of CLIP, so that a code is an entry of the language model's
    own vocabulary; the caps count what is left."""


class VocabularyMetrics(Metrics):
    """What the captions are, and how much of them the vocabulary covers. A word is an adjective or a noun."""

    num_captions: int
    """Captions that were read."""
    num_tokens: int
    """Words and signs in them."""
    captions_empty: int
    """Captions without a letter."""
    captions_control: int
    """Captions with control, invisible or undecodable characters."""
    captions_markup: int
    """Captions with tags or entities."""
    captions_cut: int
    """Captions that were cut, since they were far too long."""
    captions_other_script: int
    """Captions of which most letters are not Latin."""
    captions_other_language: int
    """Captions in Latin script of which most words are not English."""
    captions_unusable: dict[str, int]
    """Captions that the reader of the source left out, by reason."""
    captions_without_id: int = 0
    """Captions whose source has ids but gives them none; they are read."""
    captions_other_splits: int = 0
    """Captions of splits that are not for training; they are not read."""
    unusable_share: float
    """Share of the captions that were left out, or are empty or in another script or language, 0 to 1; lower is
    better."""
    captions_repeated: int
    """Captions that occurred before under the same id."""
    repeats_are_estimated: bool | None = None
    """True where `captions_repeated` is an estimate: above a million distinct captions."""
    num_words_other_script: int
    """How often a word without a Latin letter, or with a full-width one, occurs; such words are left out."""
    num_adjectives: int
    """Adjectives of the vocabulary."""
    num_adjectives_said: int
    """Distinct adjectives of the captions."""
    adjectives_coverage: float
    """Share of the adjectives' occurrences that the vocabulary covers, 0 to 1; higher is better."""
    num_adjectives_not_single_tokens: int | None = None
    """Frequent adjectives that `single_clip_tokens` left out."""
    num_nouns: int
    """Nouns of the vocabulary."""
    num_nouns_said: int
    """Distinct nouns of the captions."""
    nouns_coverage: float
    """As `adjectives_coverage`."""
    num_nouns_not_single_tokens: int | None = None
    """As `num_adjectives_not_single_tokens`."""
    num_in_both: int
    """Words of the vocabulary that are both an adjective and a noun."""


def _no_pairs() -> pa.Table:
    return to_table(PAIRS, [])


@dataclass(frozen=True)
class Vocabulary:
    """Words by class in the order of their indices: falling count, then the alphabet; and the pairs of them.

    A word of both classes is in both lists.
    """

    pos: PosParams
    adjectives: dict[str, int]
    """How often each adjective occurs."""
    nouns: dict[str, int]
    """How often each noun occurs, in the singular or plural."""
    phrases: PhraseParams = PLAIN
    """What counts as a pair."""
    pairs: pa.Table = field(default_factory=_no_pairs)
    """Columns as `vqpipe.artifacts.specs.codebooks.PAIRS`, by adjective, then noun: all pairs that occur."""
    num_pairs_said: int = 0
    """How often any pair occurs in the captions, pairs with words outside the vocabulary included."""

    def only(self, adjectives: Mapping[str, int], nouns: Mapping[str, int]) -> Vocabulary:
        """The vocabulary of these words with these counts, in their order, and the pairs of them that it has."""
        pairs = self.pairs
        for name, own, kept in (("adjective", self.adjectives, adjectives), ("noun", self.nouns, nouns)):
            at = {word: index for index, word in enumerate(kept)}
            moved = np.array([at.get(word, -1) for word in own], np.int32)
            ends = pa.array(moved[pairs[name].to_numpy()], pa.int32())
            pairs = pairs.set_column(pairs.schema.get_field_index(name), pairs.schema.field(name), ends)
            pairs = pairs.filter(pc.greater_equal(ends, 0))
        pairs = pairs.sort_by([("adjective", "ascending"), ("noun", "ascending")])
        return replace(self, adjectives=dict(adjectives), nouns=dict(nouns), pairs=pairs)


def build_vocabulary(
    captions: Iterable[tuple[str, str]],
    config: VocabularyParams,
    keep: Keep | None = None,
    limit: Limit | None = None,
    scratch: Callable[[], Path] | None = None,
) -> tuple[Vocabulary, VocabularyMetrics]:
    """Count the adjectives, nouns and pairs of (id, caption) pairs, and keep the frequent words with their pairs.

    Captions that occur again count again. Words without a Latin letter are left out: the backends know English.
    Memory grows with the number of distinct words and of distinct pairs of the vocabulary, not with the number of
    captions. The examples of a pair are its first three distinct ids.

    Args:
        captions: (id, caption) pairs of any strings.
        config: the backend and the limits.
        keep: which of the frequent words may stay; the caps apply to what is left.
        limit: how many captions may be unusable; None: all of them.
        scratch: gives the folder of temporary files, which only many distinct pairs need (`Pairs`).

    Raises:
        DataError: there is no caption, too many are unusable, or no adjective or no noun is left.
    """
    limit = limit or Limit()
    text, words, pairs, repeats = Counter[str](), Merged(WORDS, merge_words), Pairs(scratch), Repeats()
    examples: dict[str, str] = {}
    for counts in track(count_captions(captions, config.pos, config.phrases), "counting words and pairs"):
        words.add(counts.words)
        pairs.add(counts.pairs)
        text.update(counts.text)
        repeats.add(counts.hashes)
        examples = {**counts.examples, **examples}
    if not text["captions"]:
        raise DataError("the corpus has no captions", expected="at least one caption")
    limit.check(text, examples)
    latin, foreign = _by_script(words.table())
    adjectives = _Ranked(latin, is_noun=False).kept(config.min_count, config.max_adjectives, keep)
    nouns = _Ranked(latin, is_noun=True).kept(config.min_count, config.max_nouns, keep)
    vocabulary = Vocabulary(
        config.pos, adjectives.words, nouns.words, config.phrases,
        _indexed(pairs.between(adjectives.words, nouns.words), adjectives.words, nouns.words), pairs.total,
    )  # fmt: skip
    measured = VocabularyMetrics(
        num_captions=text["captions"],
        num_tokens=text["tokens"],
        **{f"captions_{mark}": text[mark] for mark in MARKS},
        captions_unusable=dict(limit.left_out),
        unusable_share=round(limit.share(text), 6),
        captions_repeated=repeats.count(),
        repeats_are_estimated=None if repeats.is_exact() else True,
        num_words_other_script=pc.sum(foreign["count"]).as_py() or 0,
        num_in_both=len(adjectives.words.keys() & nouns.words.keys()),
        **adjectives.measured,
        **nouns.measured,
    )
    return vocabulary, measured


def _by_script(words: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The words with a Latin letter and no full-width one, and the others."""
    latin = pc.match_substring_regex(words["word"], r"\p{Latin}")
    latin = pc.and_not(latin, pc.match_substring_regex(words["word"], r"[\x{FF21}-\x{FF5A}]"))
    return words.filter(latin), words.filter(pc.invert(latin))


def _indexed(pairs: pa.Table, adjectives: Iterable[str], nouns: Iterable[str]) -> pa.Table:
    """Pairs of words, as `Pairs.between` gives them, as pairs of indices: a table as `Vocabulary.pairs`."""
    sides = (("adjective", adjectives), ("noun", nouns))
    columns = {name: pc.index_in(pairs[name], pa.array(list(words), pa.string())) for name, words in sides}
    columns |= {"count": pairs["count"], "examples": pairs["ids"]}
    ordered = pa.table(columns).sort_by([("adjective", "ascending"), ("noun", "ascending")])
    return to_table(PAIRS, {name: ordered[name].combine_chunks() for name in PAIRS.columns})


class _Kept(NamedTuple):
    words: dict[str, int]
    measured: dict[str, Any]
    """Fields of `VocabularyMetrics`."""


class _Ranked:
    """The words of one class by falling count, then by the alphabet."""

    def __init__(self, words: pa.Table, is_noun: bool) -> None:
        self.name = "noun" if is_noun else "adjective"
        own = words.filter(words["is_noun"] if is_noun else pc.invert(words["is_noun"]))
        self.table = own.sort_by([("count", "descending"), ("word", "ascending")])

    def kept(self, min_count: int, most: int | None, keep: Keep | None) -> _Kept:
        """The frequent words that may stay, up to `most`, and what is measured of this class."""
        frequent = self.table.filter(pc.greater_equal(self.table["count"], min_count))
        pairs = list(zip(frequent["word"].to_pylist(), frequent["count"].to_pylist(), strict=True))
        if not pairs:
            self._complain(min_count)
        allowed = pairs if keep is None else [pair for pair in pairs if keep(pair[0])]
        if not allowed:
            raise DataError(
                f"no frequent {self.name} is a single token of the text encoder",
                found=f"{len(pairs)} that are several: {', '.join(word for word, _ in pairs[:5])}, …",
                expected="at least one; or vocabulary.single_clip_tokens: false",
            )
        words = dict(allowed[:most])
        measured = {
            f"num_{self.name}s": len(words),
            f"num_{self.name}s_said": self.table.num_rows,
            f"{self.name}s_coverage": round(sum(words.values()) / pc.sum(self.table["count"]).as_py(), 6),
        }
        if keep is not None:
            measured[f"num_{self.name}s_not_single_tokens"] = len(pairs) - len(allowed)
        return _Kept(words, measured)

    def _complain(self, min_count: int) -> None:
        first = self.table.slice(0, 1).to_pylist()
        top = f"{first[0]['word']!r}, {first[0]['count']} times" if first else f"no {self.name} at all"
        raise DataError(
            f"no {self.name} of the captions occurs vocabulary.min_count times",
            found=f"at most {top}",
            expected=f"{min_count} times or more",
        )


def publish_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Publish a VOCABULARY folder; equal vocabularies give equal bytes."""
    facts = {
        "pos": vocabulary.pos.model_dump(),
        "phrases": vocabulary.phrases.model_dump(),
        "num_adjectives": len(vocabulary.adjectives),
        "num_nouns": len(vocabulary.nouns),
        "num_pairs_said": vocabulary.num_pairs_said,
    }
    with publish_folder(path, VOCABULARY, facts) as folder:
        write_word_counts(folder, vocabulary.adjectives, vocabulary.nouns)
        write_table(folder / "pairs.parquet", PAIRS, vocabulary.pairs)


@reads_whole
def read_vocabulary(path: Path) -> Vocabulary:
    """Read a VOCABULARY folder.

    Raises:
        ArtifactError: missing, damaged, of another version, or its parts do not fit each other.
    """
    facts = read_manifest(path, VOCABULARY).facts
    adjectives, nouns = read_word_counts(path, ADJECTIVES), read_word_counts(path, NOUNS)
    pairs = read_table(path / "pairs.parquet", PAIRS)
    for name, words in (("adjective", adjectives), ("noun", nouns)):
        ends = pairs[name].to_numpy()
        if len(ends) and not (ends.min() >= 0 and ends.max() < len(words)):
            raise ArtifactError(
                f"{path}: the pairs do not fit the words",
                found=f"{name}s {ends.min()} to {ends.max()}",
                expected=f"{len(words)} {name}s",
                run="dvc repro vocabulary",
            )
    phrases = validate(facts["phrases"], "phrases", PhraseParams, str(path))
    return Vocabulary(
        pos_params(facts["pos"], str(path)), adjectives, nouns, phrases, pairs, int(facts["num_pairs_said"])
    )
