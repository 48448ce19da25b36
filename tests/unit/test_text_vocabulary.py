"""The vocabulary: counts, order, limits, and the same result for any number of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqpipe.artifacts.publish import tree_digest
from vqpipe.errors import ArtifactError, DataError
from vqpipe.params.pos import WordnetPos
from vqpipe.params.vocabulary import VocabularyParams
from vqpipe.text import chunks
from vqpipe.text.vocabulary import build_vocabulary, publish_vocabulary, read_vocabulary

WORDNET = WordnetPos(kind="wordnet")
CAPTIONS = [
    ("1", "a red bird and a small red bird"),
    ("2", "two red birds on a green tree"),
    ("3", "an orange on an orange plate"),
    ("3", "a green tree"),
    ("4", ""),
    ("5", "\x07 <b>a</b> small dog " + "very " * 1000),
]


def config(min_count: int = 1, adjectives: int | None = None, nouns: int | None = None) -> VocabularyParams:
    return VocabularyParams(pos=WORDNET, min_count=min_count, max_adjectives=adjectives, max_nouns=nouns)


def test_counts_and_order() -> None:
    vocabulary = build_vocabulary(CAPTIONS, config())
    assert list(vocabulary.adjectives.items()) == [("red", 3), ("green", 2), ("small", 2), ("orange", 1)]
    assert list(vocabulary.nouns.items()) == [
        ("bird", 3),
        ("tree", 2),
        ("dog", 1),
        ("orange", 1),
        ("plate", 1),
    ]


def test_oddities_are_counted() -> None:
    facts = build_vocabulary(CAPTIONS, config(min_count=2)).facts
    assert facts["num_captions"] == 6
    found = {name: facts[f"captions_{name}"] for name in ("empty", "control", "markup", "cut")}
    assert found == {"empty": 1, "control": 1, "markup": 1, "cut": 1}
    assert (facts["num_adjectives"], facts["num_adjectives_said"]) == (3, 4)
    assert facts["adjectives_coverage"] == pytest.approx(7 / 8)
    assert build_vocabulary(CAPTIONS, config()).facts["num_in_both"] == 1


def test_limits_keep_the_most_frequent() -> None:
    vocabulary = build_vocabulary(CAPTIONS, config(adjectives=2, nouns=1))
    assert list(vocabulary.adjectives) == ["red", "green"]
    assert list(vocabulary.nouns) == ["bird"]


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ([], "no captions"),
        ([("1", "a dog")], "no adjective at all"),
        ([("1", "a red dog")], "'red', said 1 times"),
    ],
)
def test_nothing_to_keep_is_told(captions: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_vocabulary(captions, config(min_count=2))


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    vocabulary = build_vocabulary(CAPTIONS, config())
    publish_vocabulary(tmp_path / "a", vocabulary)
    publish_vocabulary(tmp_path / "b", build_vocabulary(iter(CAPTIONS), config()))
    again = read_vocabulary(tmp_path / "a")
    assert (again.pos, again.adjectives, again.nouns) == (WORDNET, vocabulary.adjectives, vocabulary.nouns)
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")
    with pytest.raises(ArtifactError, match="does not exist"):
        read_vocabulary(tmp_path / "none")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    whole = build_vocabulary(CAPTIONS, config())
    monkeypatch.setattr(chunks, "CHUNK", 2)
    monkeypatch.setattr(chunks, "ALONE", 1)
    monkeypatch.setenv("VQPIPE_WORKERS", workers)
    assert build_vocabulary(CAPTIONS, config()) == whole
