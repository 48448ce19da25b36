"""Captions for tests of counting, and the vocabularies and codebooks of captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vqpipe.artifacts.publish import tree_digest
from vqpipe.codebooks.words import WordsCodebook, publish_words_codebook
from vqpipe.params.base import validate
from vqpipe.text import counting
from vqpipe.text.graph import GraphParams, build_words
from vqpipe.text.tagger import PhraseParams
from vqpipe.text.vectors import RandomVectors, word_vectors
from vqpipe.text.vocabulary import Vocabulary, VocabularyParams, build_vocabulary, publish_vocabulary
from vqpipe.text.wordnet_tagger import WordnetPos, WordnetTagger

WORDNET = WordnetPos(kind="wordnet")
PREDICATIVE = PhraseParams(predicative=True, shades="noun")
LIMITS = VocabularyParams(pos=WORDNET, phrases=PREDICATIVE, min_count=2, max_adjectives=None, max_nouns=None)
RANDOM = RandomVectors(kind="random", dim=3, std=1.0, seed=0)
GRAPH = GraphParams(min_count=2, weight="pmi", vectors=RANDOM)
ADJECTIVES = ["red", "green", "small", "tall", "old", "wooden", "yellow", "bright"]
NOUNS = ["bird", "tree", "car", "plate", "dog", "table", "tower", "cat", "clock", "kite"]


def sentences(count: int = 240) -> Iterator[tuple[str, str]]:
    """(id, caption) pairs; three to an id, some of them the same."""
    for number in range(count):
        at = number * number + number // 7
        first, second = ADJECTIVES[at % 8], ADJECTIVES[(at // 3) % 8]
        noun, other = NOUNS[at % 10], NOUNS[(at // 5) % 10]
        yield f"{number // 3}", f"a {first} {noun} by two {second} {other}s"


def counted(
    captions: Iterable[str], adjectives: dict[str, int], nouns: dict[str, int], predicative: bool = False
) -> Vocabulary:
    """A vocabulary of these words with these counts, and the pairs of them in the captions; ids are "1", "2", …"""
    phrases = PhraseParams(predicative=predicative, shades="noun")
    limits = LIMITS.model_copy(update={"min_count": 1, "phrases": phrases})
    numbered = ((str(number), caption) for number, caption in enumerate(captions, 1))
    return build_vocabulary(numbered, limits)[0].only(adjectives, nouns)


def no_clip() -> Any:
    """A CLIP that no test may load."""
    raise AssertionError("these vectors need no CLIP")


def publish(folder: Path, vocabulary: Vocabulary, config: dict[str, Any] | GraphParams) -> WordsCodebook:
    """Publish the words codebook of a vocabulary, as the stage `graph` does."""
    graph = config if isinstance(config, GraphParams) else validate(config, "graph", GraphParams)
    codebook = build_words(word_vectors(vocabulary, graph.vectors, no_clip), graph)
    publish_words_codebook(folder, codebook)
    return codebook


def in_small_chunks(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Count in chunks of so many captions, in workers where there is more than one chunk."""
    monkeypatch.setattr(counting, "CHUNK", length)
    monkeypatch.setattr(WordnetTagger, "max_chunks_alone", 1)


def digests(
    folder: Path, monkeypatch: pytest.MonkeyPatch, captions: Iterable[tuple[str, str]] | None = None
) -> list[str]:
    """The digests of the vocabulary and the codebook of `captions`, counted in many small chunks, and the metrics."""
    in_small_chunks(monkeypatch, 10)
    vocabulary, measured = build_vocabulary(captions or sentences(), LIMITS)
    publish_vocabulary(folder / "vocabulary", vocabulary)
    publish(folder / "words", vocabulary, GRAPH)
    return [tree_digest(folder / "vocabulary"), tree_digest(folder / "words"), repr(measured)]
