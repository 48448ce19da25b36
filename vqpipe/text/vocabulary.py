"""The vocabulary: which adjectives and nouns the captions say, how often, and which of them stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.artifacts.intact import reads_whole
from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.words import ADJECTIVES, NOUNS, VOCABULARY
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.errors import DataError
from vqpipe.params.pos import PosParams, pos_params
from vqpipe.params.vocabulary import VocabularyParams
from vqpipe.runtime.progress import track
from vqpipe.text.chunks import map_captions
from vqpipe.text.counting import MARKS, count_words
from vqpipe.text.merging import WORDS, Merged, Repeats, merge_words
from vqpipe.text.usable import Limit

Keep = Callable[[str], bool]
"""Whether a word may stay, whatever its count."""


@dataclass(frozen=True)
class Vocabulary:
    """Words by class in the order of their indices: falling count, then the alphabet.

    A word of both classes is in both lists. `facts` are counts of the text, for the metrics.
    """

    pos: PosParams
    adjectives: dict[str, int]
    nouns: dict[str, int]
    facts: Mapping[str, Any] = field(default_factory=dict)


def build_vocabulary(
    captions: Iterable[tuple[str, str]],
    config: VocabularyParams,
    keep: Keep | None = None,
    limit: Limit | None = None,
) -> Vocabulary:
    """Count the adjectives and nouns of (id, caption) pairs and keep the frequent ones.

    Captions that come again count again. Words without a Latin letter are left out: the backends know English.
    Memory grows with the number of distinct words, not with the number of captions.

    Facts: `num_captions` and `num_tokens`; `captions_MARK` for each of `MARKS`; `captions_repeated`, how many
    came before under the same id (an estimate above a million distinct ones, then `repeats_are_estimated`);
    `unusable_share`, the share of captions left out, empty or in another script or language;
    `num_words_other_script`, how often a word without a Latin letter, or with a full-width one, was said; for each
    class the words kept (`num_*`), said at all (`num_*_said`), their share of all that is said (`*_coverage`), and
    with `keep` the frequent words that it refused (`num_*_not_single_tokens`); `num_in_both`.

    Args:
        captions: (id, caption) pairs; any strings will do.
        config: the backend and the limits.
        keep: which of the frequent words may stay; the caps apply to what is left.
        limit: how many captions may be unusable; None: all of them.

    Raises:
        DataError: there is no caption, too many are unusable, or no adjective or no noun is left.
    """
    limit = limit or Limit()
    text, words, repeats = Counter[str](), Merged(WORDS, merge_words), Repeats()
    examples: dict[str, str] = {}
    work = partial(count_words, pos=config.pos)
    for counts in track(map_captions(work, captions, config.pos), "counting words"):
        words.add(counts.words)
        text.update(counts.text)
        repeats.add(counts.hashes)
        examples = {**counts.examples, **examples}
    if not text["captions"]:
        raise DataError("the corpus has no captions", expected="at least one caption")
    limit.check(text, examples)
    latin, foreign = _by_script(words.table())
    adjectives = _Ranked(latin, is_noun=False).kept(config.min_count, config.max_adjectives, keep)
    nouns = _Ranked(latin, is_noun=True).kept(config.min_count, config.max_nouns, keep)
    facts = {
        "num_captions": text["captions"],
        "num_tokens": text["tokens"],
        **{f"captions_{mark}": text[mark] for mark in MARKS},
        "unusable_share": round(limit.share(text), 6),
        "captions_repeated": repeats.count(),
        **({} if repeats.is_exact() else {"repeats_are_estimated": True}),
        "num_words_other_script": pc.sum(foreign["count"]).as_py() or 0,
        **adjectives.facts,
        **nouns.facts,
        "num_in_both": len(adjectives.words.keys() & nouns.words.keys()),
    }
    return Vocabulary(config.pos, adjectives.words, nouns.words, facts)


def _by_script(words: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The words with a Latin letter and no full-width one, and the others."""
    latin = pc.match_substring_regex(words["word"], r"\p{Latin}")
    latin = pc.and_not(latin, pc.match_substring_regex(words["word"], r"[\x{FF21}-\x{FF5A}]"))
    return words.filter(latin), words.filter(pc.invert(latin))


@dataclass(frozen=True)
class _Kept:
    words: dict[str, int]
    facts: dict[str, Any]


class _Ranked:
    """The words of one class by falling count, then by the alphabet."""

    def __init__(self, words: pa.Table, is_noun: bool) -> None:
        self.name = "noun" if is_noun else "adjective"
        own = words.filter(words["is_noun"] if is_noun else pc.invert(words["is_noun"]))
        self.table = own.sort_by([("count", "descending"), ("word", "ascending")])

    def kept(self, min_count: int, most: int | None, keep: Keep | None) -> _Kept:
        """The frequent words that may stay, up to `most`, and the facts about this class."""
        frequent = self.table.filter(pc.greater_equal(self.table["count"], min_count))
        pairs = list(zip(frequent["word"].to_pylist(), frequent["count"].to_pylist(), strict=True))
        if not pairs:
            self._complain(min_count)
        allowed = pairs if keep is None else [pair for pair in pairs if keep(pair[0])]
        if not allowed:
            raise DataError(
                f"no {self.name} that is said often enough is a single token of the text encoder",
                found=f"{len(pairs)} that are several: {', '.join(word for word, _ in pairs[:5])}, …",
                expected="at least one; or vocabulary.single_clip_tokens: false",
            )
        words = dict(allowed[:most])
        facts = {
            f"num_{self.name}s": len(words),
            f"num_{self.name}s_said": self.table.num_rows,
            f"{self.name}s_coverage": round(sum(words.values()) / pc.sum(self.table["count"]).as_py(), 6),
        }
        if keep is not None:
            facts[f"num_{self.name}s_not_single_tokens"] = len(pairs) - len(allowed)
        return _Kept(words, facts)

    def _complain(self, min_count: int) -> None:
        first = self.table.slice(0, 1).to_pylist()
        top = f"{first[0]['word']!r}, said {first[0]['count']} times" if first else f"no {self.name} at all"
        raise DataError(
            f"no {self.name} of the captions is said vocabulary.min_count times",
            found=f"at most {top}",
            expected=f"{min_count} times or more",
        )


def write_words(folder: Path, vocabulary: Vocabulary) -> None:
    """Write `adjectives.parquet` and `nouns.parquet` into an open folder."""
    for spec, words in ((ADJECTIVES, vocabulary.adjectives), (NOUNS, vocabulary.nouns)):
        columns = {"index": list(range(len(words))), "word": list(words), "count": list(words.values())}
        write_table(folder / f"{spec.name}.parquet", spec, to_table(spec, columns))


def publish_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Publish a VOCABULARY folder; equal vocabularies give equal bytes."""
    facts = {
        "pos": vocabulary.pos.model_dump(),
        "num_adjectives": len(vocabulary.adjectives),
        "num_nouns": len(vocabulary.nouns),
    }
    with publish_folder(path, VOCABULARY, facts) as folder:
        write_words(folder, vocabulary)


@reads_whole
def read_vocabulary(path: Path) -> Vocabulary:
    """Read a VOCABULARY folder; its `facts` are those of the manifest.

    Raises:
        ArtifactError: missing, damaged, or of another version.
    """
    from vqpipe.codebooks.words import read_words_of  # imports torch, which counting does without

    facts = read_manifest(path, VOCABULARY).facts
    pos = pos_params(facts["pos"], str(path))
    return Vocabulary(pos, read_words_of(path, ADJECTIVES), read_words_of(path, NOUNS), facts)
