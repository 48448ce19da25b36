"""The vocabulary: counts, order, limits, and the same result for any number of workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.text_captions import in_small_chunks
from vqpipe.artifacts.publish import tree_digest
from vqpipe.errors import ArtifactError, DataError
from vqpipe.text.phrases import PLAIN
from vqpipe.text.vocabulary import (
    Vocabulary,
    VocabularyParams,
    build_vocabulary,
    publish_vocabulary,
    read_vocabulary,
)
from vqpipe.text.wordnet_tagger import WordnetPos

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
    return VocabularyParams(
        pos=WORDNET, phrases=PLAIN, min_count=min_count, max_adjectives=adjectives, max_nouns=nouns
    )


def test_counts_and_order() -> None:
    vocabulary, _ = build_vocabulary(CAPTIONS, config())
    assert list(vocabulary.adjectives.items()) == [("red", 3), ("green", 2), ("small", 2), ("orange", 1)]
    assert list(vocabulary.nouns.items()) == [
        ("bird", 3),
        ("tree", 2),
        ("dog", 1),
        ("orange", 1),
        ("plate", 1),
    ]


def test_oddities_are_counted() -> None:
    _, measured = build_vocabulary(CAPTIONS, config(min_count=2))
    assert measured.num_captions == 6
    found = {name: measured.plain()[f"captions_{name}"] for name in ("empty", "control", "markup", "cut")}
    assert found == {"empty": 1, "control": 1, "markup": 1, "cut": 1}
    assert (measured.num_adjectives, measured.num_adjectives_said) == (3, 4)
    assert measured.adjectives_coverage == pytest.approx(7 / 8)
    assert build_vocabulary(CAPTIONS, config())[1].num_in_both == 1


def test_limits_keep_the_most_frequent() -> None:
    vocabulary, _ = build_vocabulary(CAPTIONS, config(adjectives=2, nouns=1))
    assert list(vocabulary.adjectives) == ["red", "green"]
    assert list(vocabulary.nouns) == ["bird"]


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ([], "no captions"),
        ([("1", "a dog")], "no adjective at all"),
        ([("1", "a red dog")], "'red', 1 times"),
    ],
)
def test_nothing_to_keep_is_reported(captions: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_vocabulary(captions, config(min_count=2))


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    vocabulary, _ = build_vocabulary(CAPTIONS, config())
    publish_vocabulary(tmp_path / "a", vocabulary)
    publish_vocabulary(tmp_path / "b", build_vocabulary(iter(CAPTIONS), config())[0])
    again = read_vocabulary(tmp_path / "a")
    assert again == vocabulary
    assert list(again.nouns) == list(vocabulary.nouns)
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")
    with pytest.raises(ArtifactError, match="does not exist"):
        read_vocabulary(tmp_path / "none")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    whole = build_vocabulary(CAPTIONS, config())
    in_small_chunks(monkeypatch, 2)
    monkeypatch.setenv("VQPIPE_WORKERS", workers)
    assert build_vocabulary(CAPTIONS, config()) == whole


def named_pairs(vocabulary: Vocabulary) -> list[tuple[str, str, int, list[str]]]:
    adjectives, nouns = list(vocabulary.adjectives), list(vocabulary.nouns)
    rows = vocabulary.pairs.to_pylist()
    return [(adjectives[row["adjective"]], nouns[row["noun"]], row["count"], row["examples"]) for row in rows]


def test_pairs_of_the_words_that_stay() -> None:
    vocabulary, _ = build_vocabulary(CAPTIONS, config(adjectives=2, nouns=2))
    assert named_pairs(vocabulary) == [("red", "bird", 3, ["1", "2"]), ("green", "tree", 2, ["2", "3"])]
    whole, _ = build_vocabulary(CAPTIONS, config())
    assert vocabulary.num_pairs_said == whole.num_pairs_said == 8
    assert sum(count for *_, count, _ in named_pairs(whole)) == 8


def test_fewer_words_keep_the_pairs_of_them() -> None:
    whole, _ = build_vocabulary(CAPTIONS, config())
    kept = whole.only({"small": 2, "red": 3}, {"dog": 1, "bird": 3})
    assert named_pairs(kept) == [
        ("small", "dog", 1, ["5"]), ("small", "bird", 1, ["1"]), ("red", "bird", 3, ["1", "2"]),
    ]  # fmt: skip
    assert kept.num_pairs_said == whole.num_pairs_said
    assert whole.only(whole.adjectives, whole.nouns) == whole


def test_pairs_that_do_not_fit_the_words_are_refused(tmp_path: Path) -> None:
    whole, _ = build_vocabulary(CAPTIONS, config())
    publish_vocabulary(tmp_path / "v", replace(whole, nouns={"bird": 3}))
    with pytest.raises(ArtifactError, match="pairs do not fit the words"):
        read_vocabulary(tmp_path / "v")
