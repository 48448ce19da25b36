"""Captions for tests of counting, and the bytes that the words and the graph of them have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from vqpipe.artifacts.publish import tree_digest
from vqpipe.params.graph import ClipVectors, GraphParams, PhraseParams, Prompts
from vqpipe.params.pos import WordnetPos
from vqpipe.params.vocabulary import VocabularyParams
from vqpipe.text import chunks
from vqpipe.text.graph import build_graph
from vqpipe.text.vocabulary import build_vocabulary, publish_vocabulary

WORDNET = WordnetPos(kind="wordnet")
LIMITS = VocabularyParams(pos=WORDNET, min_count=2, max_adjectives=None, max_nouns=None)
GRAPH = GraphParams(
    min_count=2, weight="pmi", phrases=PhraseParams(predicative=True, shades="noun"),
    vectors=ClipVectors(kind="clip", prompts=Prompts(adjective="{}", noun="{}")),
)  # fmt: skip
ADJECTIVES = ["red", "green", "small", "tall", "old", "wooden", "yellow", "bright"]
NOUNS = ["bird", "tree", "car", "plate", "dog", "table", "tower", "cat", "clock", "kite"]


def sentences(count: int = 240) -> Iterator[tuple[str, str]]:
    """(id, caption) pairs; three to an id, some of them the same."""
    for number in range(count):
        at = number * number + number // 7
        first, second = ADJECTIVES[at % 8], ADJECTIVES[(at // 3) % 8]
        noun, other = NOUNS[at % 10], NOUNS[(at // 5) % 10]
        yield f"{number // 3}", f"a {first} {noun} by two {second} {other}s"


def digests(
    folder: Path, monkeypatch: pytest.MonkeyPatch, captions: Iterable[tuple[str, str]] | None = None
) -> list[str]:
    """The digest of the vocabulary of `captions`, its facts and the whole graph, counted in many small chunks."""
    monkeypatch.setattr(chunks, "CHUNK", 10)
    monkeypatch.setattr(chunks, "ALONE", 1)
    vocabulary = build_vocabulary(captions or sentences(), LIMITS)
    publish_vocabulary(folder / "vocabulary", vocabulary)
    graph = build_graph(sentences(), vocabulary, GRAPH)
    return [tree_digest(folder / "vocabulary"), repr(graph), repr(vocabulary.facts)]
