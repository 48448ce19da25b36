"""Counting over chunks: odd captions, partial counts and their merging, and equal bytes however it is run."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from tests.text_captions import (
    GRAPH,
    LIMITS,
    PREDICATIVE,
    WORDNET,
    digests,
    in_small_chunks,
    no_clip,
    sentences,
)
from vqpipe.text import counting
from vqpipe.text.counting import (
    PAIRS,
    WORDS,
    Merged,
    Pairs,
    Repeats,
    count_chunk,
    list_pairs,
    map_captions,
    merge_pairs,
    merge_words,
)  # fmt: skip
from vqpipe.text.graph import build_words
from vqpipe.text.vectors import word_vectors
from vqpipe.text.vocabulary import build_vocabulary

ODD = [
    ("1", ""),
    ("2", "\x00\x07"),
    ("3", "a red\x00bird\ufffd"),
    ("4", "<b>a red bird</b> &amp; <br/>"),
    ("5", "a red bird " + "very " * 10_000),
    ("6", "\U0001f426\u200d\U0001f525 \U0001f600"),
    ("7", "красная птица"),
    ("8", "红色的鸟"),
    ("9", "a red bird"),
    ("9", "a red bird"),
    ("10", "caf\udce9 \ud83d red bird"),
    ("11", "a red bird and " + "x" * 5000),
]


def test_odd_captions_are_counted_and_stop_nothing() -> None:
    vocabulary, measured = build_vocabulary(ODD, LIMITS)
    assert vocabulary.adjectives == {"red": 7}
    assert vocabulary.nouns == {"bird": 7}
    assert measured.num_captions == len(ODD)
    content = measured.plain()
    found = {
        mark: content[f"captions_{mark}"] for mark in ("empty", "control", "markup", "cut", "other_script")
    }
    assert found == {"empty": 3, "control": 4, "markup": 1, "cut": 2, "other_script": 2}
    assert measured.captions_repeated == 1
    assert measured.num_words_other_script > 0
    assert "repeats_are_estimated" not in content


def test_words_that_may_not_stay_are_counted() -> None:
    captions = list(sentences(90))
    free, every = build_vocabulary(captions, LIMITS)
    short, measured = build_vocabulary(captions, LIMITS, keep=lambda word: len(word) <= 4)
    assert short.adjectives == {word: n for word, n in free.adjectives.items() if len(word) <= 4}
    lost = len(free.nouns) - len(short.nouns)
    assert measured.num_nouns_not_single_tokens == lost > 0
    assert measured.num_nouns_said == every.num_nouns_said
    capped, _ = build_vocabulary(
        captions, LIMITS.model_copy(update={"max_nouns": 3}), keep=lambda word: len(word) <= 4
    )
    assert list(capped.nouns) == list(short.nouns)[:3]


def test_nothing_that_may_stay_is_reported() -> None:
    with pytest.raises(Exception, match="single_clip_tokens"):
        build_vocabulary(sentences(9), LIMITS.model_copy(update={"min_count": 1}), keep=lambda word: False)


def test_a_chunk_gives_the_counts_of_its_words_and_pairs() -> None:
    chunk = [("a", "a red bird and two red birds"), ("b", "a red bird"), ("b", "red birds by a green tree")]
    counts = count_chunk(chunk, WORDNET, PREDICATIVE)
    rows = {(row["is_noun"], row["word"]): row["count"] for row in counts.words.to_pylist()}
    assert rows == {(False, "red"): 4, (False, "green"): 1, (True, "bird"): 4, (True, "tree"): 1}
    assert counts.text["tokens"] == 7 + 3 + 6
    assert counts.pairs.to_pylist() == [
        {"adjective": "red", "noun": "bird", "count": 4, "id": "a"},
        {"adjective": "red", "noun": "bird", "count": 0, "id": "b"},
        {"adjective": "green", "noun": "tree", "count": 1, "id": "b"},
    ]
    assert count_chunk([("a", "birds")], WORDNET, PREDICATIVE).pairs.num_rows == 0


def pair_rows(rows: list[tuple[str, str, int, str]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(PAIRS.names, row, strict=True)) for row in rows], schema=PAIRS)


@pytest.mark.parametrize("merge_rows", [1, 4, 1000])
def test_pairs_keep_the_first_distinct_ids_whenever_they_are_merged(
    monkeypatch: pytest.MonkeyPatch, merge_rows: int
) -> None:
    monkeypatch.setattr(counting, "MERGE_ROWS", merge_rows)
    merged = Merged(PAIRS, merge_pairs)
    for rows in (
        [("red", "bus", 2, "7")],
        [("big", "bus", 1, "3")],
        [("red", "bus", 5, "7"), ("red", "bus", 0, "4")],
        [("red", "bus", 1, "9"), ("red", "bus", 0, "4"), ("red", "bus", 0, "1")],
        [("big", "bus", 1, "2"), ("red", "bus", 1, "0")],
    ):
        merged.add(pair_rows(rows))
    assert list_pairs(merged.table()).to_pylist() == [
        {"adjective": "red", "noun": "bus", "count": 9, "ids": ["7", "4", "9"]},
        {"adjective": "big", "noun": "bus", "count": 2, "ids": ["3", "2"]},
    ]


def test_an_empty_table_of_pairs_can_be_merged() -> None:
    assert list_pairs(merge_pairs(PAIRS.empty_table())).num_rows == 0


def test_waiting_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MERGE_ROWS", 10)
    seen: list[int] = []

    def merge(table: pa.Table) -> pa.Table:
        seen.append(table.num_rows)
        return merge_words(table)

    merged = Merged(WORDS, merge)
    part = pa.Table.from_pylist(
        [{"is_noun": False, "word": w, "count": 1} for w in ("a", "b", "c")], schema=WORDS
    )
    for _ in range(100):
        merged.add(part)
    assert max(seen) <= 10 + 2 * 3
    assert len(seen) <= 30
    assert merged.table()["count"].to_pylist() == [100, 100, 100]


def test_repeats_are_exact_and_above_the_limit_close(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = [(number * 0x9E3779B97F4A7C15) % (1 << 64) for number in range(20_000)]
    exact = Repeats()
    exact.add(pa.array([*hashes, *hashes[:5000], *hashes[:10]], pa.uint64()))
    assert (exact.count(), exact.is_exact()) == (5010, True)
    monkeypatch.setattr(counting, "MAX_HASHES", 4000)
    monkeypatch.setattr(counting, "MERGE_ROWS", 1500)
    counts = set()
    for step in (700, 25_000):  # the same for any chunks
        sampled, stream = Repeats(), [*hashes, *hashes[:5000]]
        for at in range(0, len(stream), step):
            sampled.add(pa.array(stream[at : at + step], pa.uint64()))
        assert not sampled.is_exact()
        counts.add(sampled.count())
    assert len(counts) == 1
    assert counts.pop() == pytest.approx(5000, rel=0.1)


def test_long_captions_do_not_grow_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = list(map_captions(list, [("1", "x " * 1_000_000)], WORDNET))
    assert len(taken[0][0][1]) <= 2001


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_WORKERS", "1")
        return digests(tmp_path_factory.mktemp("alone"), patch)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["2", "7"])
def test_any_number_of_workers_gives_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alone: list[str], workers: str
) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", workers)
    assert digests(tmp_path, monkeypatch) == alone


@pytest.mark.slow
def test_a_killed_worker_changes_no_byte(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alone: list[str]
) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "2")
    me, killed = psutil.Process(), []
    before = {child.pid for child in me.children(recursive=True)}

    def captions() -> Iterator[tuple[str, str]]:
        for number, caption in enumerate(sentences()):
            if number == 150:
                fresh = [child for child in me.children(recursive=True) if child.pid not in before]
                worker = next(child for child in fresh if child.parent() not in (None, me))
                os.kill(worker.pid, signal.SIGKILL)
                killed.append(worker.pid)
            yield caption

    assert digests(tmp_path, monkeypatch, captions()) == alone
    assert killed


def test_the_edges_are_what_counting_by_hand_gives() -> None:
    captions = list(sentences())
    vocabulary, _ = build_vocabulary(captions, LIMITS)
    codebook = build_words(word_vectors(vocabulary, GRAPH.vectors, no_clip), GRAPH)
    by_hand: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], list[str]] = {}
    for name, caption in captions:
        words = caption.split()
        for pair in ((words[1], words[2]), (words[5], words[6].removesuffix("s"))):
            by_hand[pair] += 1
            ids = first.setdefault(pair, [])
            if name not in ids:
                ids.append(name)
    found = {(edge.adjective, edge.noun): edge for edge in codebook.named_edges()}
    assert vocabulary.num_pairs_said == by_hand.total() == 2 * len(captions)
    assert {pair: edge.count for pair, edge in found.items()} == {p: n for p, n in by_hand.items() if n >= 2}
    assert {pair: list(edge.examples) for pair, edge in found.items()} == {p: first[p][:3] for p in found}


def test_pairs_that_wait_on_disk_are_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_small_chunks(monkeypatch, 10)
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    whole, _ = build_vocabulary(sentences(), LIMITS)
    monkeypatch.setattr(counting, "MERGE_ROWS", 5)
    monkeypatch.setattr(counting, "MAX_PAIR_ROWS", 20)
    asked: list[Path] = []

    def scratch() -> Path:
        asked.append(tmp_path)
        return tmp_path

    spilt, _ = build_vocabulary(sentences(), LIMITS, scratch=scratch)
    assert len(asked) > 2
    assert spilt == whole
    assert not list(tmp_path.iterdir())  # the files have no name, so that a killed run leaves none


def test_pairs_of_rare_words_do_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MERGE_ROWS", 5)
    monkeypatch.setattr(counting, "MAX_PAIR_ROWS", 20)
    pairs = Pairs()
    for number in range(200):
        pairs.add(pair_rows([("red", "bus", 1, f"{number}"), (f"rare{number}", "bus", 1, "7")]))
        assert pairs._merged.num_rows <= 20 + 2 * 5
    assert pairs.total == 400
    assert pairs.between(["red"], ["bus"]).to_pylist() == [
        {"adjective": "red", "noun": "bus", "count": 200, "ids": ["0", "1", "2"]}
    ]
