"""The vocabulary: which adjectives and nouns the captions say, how often, and which of them stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.words import ADJECTIVES, NOUNS, VOCABULARY
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.codebooks.words import read_words_of
from vqpipe.errors import DataError
from vqpipe.params.base import validate
from vqpipe.params.pos import PosParams
from vqpipe.params.vocabulary import VocabularyParams
from vqpipe.runtime.progress import track
from vqpipe.text.chunks import Chunk, map_captions
from vqpipe.text.pos import tagger
from vqpipe.text.tokens import clean, tokenize

MARKS = ("empty", "control", "markup", "cut")
"""What can be odd about a caption; see `vqpipe.text.tokens.clean`. Each is counted, none stops the run."""


@dataclass(frozen=True)
class Vocabulary:
    """Words by class in the order of their indices: falling count, then the alphabet.

    A word of both classes is in both lists. `facts` are counts of the text, for the metrics.
    """

    pos: PosParams
    adjectives: dict[str, int]
    nouns: dict[str, int]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Counts:
    """What one chunk of captions says, or all of them."""

    adjectives: Counter[str] = field(default_factory=Counter)
    nouns: Counter[str] = field(default_factory=Counter)
    text: Counter[str] = field(default_factory=Counter)

    def add(self, other: _Counts) -> None:
        self.adjectives.update(other.adjectives)
        self.nouns.update(other.nouns)
        self.text.update(other.text)


def _count(chunk: Chunk, pos: PosParams) -> _Counts:
    backend, counts = tagger(pos), _Counts()
    for _, caption in chunk:
        text, marks = clean(caption)
        words = backend.tag_tokens(tokenize(text))
        counts.text.update(marks)
        counts.text["captions"] += 1
        counts.text["tokens"] += len(words)
        counts.adjectives.update(word.text for word in words if word.pos == "adjective")
        counts.nouns.update(word.lemma for word in words if word.pos == "noun")
    return counts


def build_vocabulary(captions: Iterable[tuple[str, str]], config: VocabularyParams) -> Vocabulary:
    """Count the adjectives and nouns of (id, caption) pairs and keep the frequent ones.

    Memory grows with the number of distinct words, not with the number of captions.

    Raises:
        DataError: there is no caption, or no adjective or no noun is said `min_count` times.
    """
    total = _Counts()
    for counts in track(map_captions(partial(_count, pos=config.pos), captions), "counting words"):
        total.add(counts)
    if not total.text["captions"]:
        raise DataError("the corpus has no captions", expected="at least one caption")
    adjectives = _frequent(total.adjectives, config.min_count, config.max_adjectives, "adjective")
    nouns = _frequent(total.nouns, config.min_count, config.max_nouns, "noun")
    facts = {
        "num_captions": total.text["captions"],
        "num_tokens": total.text["tokens"],
        **{f"captions_{mark}": total.text[mark] for mark in MARKS},
        **_share("adjectives", adjectives, total.adjectives),
        **_share("nouns", nouns, total.nouns),
        "num_in_both": len(adjectives.keys() & nouns.keys()),
    }
    return Vocabulary(config.pos, adjectives, nouns, facts)


def _frequent(counts: Counter[str], min_count: int, most: int | None, name: str) -> dict[str, int]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [(word, count) for word, count in ranked if count >= min_count][:most]
    if not kept:
        top = f"{ranked[0][0]!r}, said {ranked[0][1]} times" if ranked else f"no {name} at all"
        raise DataError(
            f"no {name} of the captions is said vocabulary.min_count times",
            found=f"at most {top}",
            expected=f"{min_count} times or more",
        )
    return dict(kept)


def _share(name: str, kept: Mapping[str, int], counts: Counter[str]) -> dict[str, Any]:
    return {
        f"num_{name}": len(kept),
        f"num_{name}_said": len(counts),
        f"{name}_coverage": round(sum(kept.values()) / counts.total(), 6),
    }


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


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a VOCABULARY folder; its `facts` are those of the manifest.

    Raises:
        ArtifactError: missing, damaged, or of another version.
    """
    facts = read_manifest(path, VOCABULARY).facts
    pos = validate(facts["pos"], "pos", PosParams, str(path))
    return Vocabulary(pos, read_words_of(path, ADJECTIVES), read_words_of(path, NOUNS), facts)
