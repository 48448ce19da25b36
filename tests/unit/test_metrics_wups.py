from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.wordnet_hypernyms import DIGESTS, NUM_PAIRS, PAIRS, digest
from vqpipe.errors import DataError
from vqpipe.metrics.wups import BELOW, Hypernyms, hypernyms, table_path, wups

RECORDED: list[tuple[str, str, float | None]] = [tuple(pair) for pair in json.loads(PAIRS.read_text())]


def test_the_recorded_pairs_have_similarities_of_all_kinds() -> None:
    values = [value for _, _, value in RECORDED]
    assert len(values) == NUM_PAIRS
    assert None in values
    assert any(value and value >= 0.9 for value in values)


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_wups_is_the_largest_similarity_of_nltk(threshold: float) -> None:
    """Recorded by NLTK's `wup_similarity` over WordNet 3.0 (tests/wordnet_hypernyms.py)."""
    found = wups([first for first, _, _ in RECORDED], [second for _, second, _ in RECORDED], threshold)
    for (first, second, value), own in zip(RECORDED, found, strict=True):
        similarity = value or 0.0
        expected = similarity if similarity >= threshold else BELOW * similarity
        assert own == pytest.approx(expected, abs=1e-12), (first, second)


def test_a_word_that_wordnet_lacks_counts_only_when_equal() -> None:
    assert wups(["xyzzy", "xyzzy", "dog", "quickly"], ["xyzzy", "dog", "xyzzy", "quickly"], 0.0).tolist() == [
        1,
        0,
        0,
        1,
    ]


def test_equal_answers_are_right_in_any_case_and_two_plurals_of_a_word_are_the_same() -> None:
    assert (
        wups(["Dog ", "dogs", "geese", "teddy bear"], ["dog", "dog", "goose", "Teddy_Bear"], 0.9).tolist()
        == [1] * 4
    )


def test_a_similarity_at_the_threshold_counts_in_full() -> None:
    value = hypernyms().similarity("dog", "cat")
    assert value is not None
    assert wups(["dog"], ["cat"], value).tolist() == [value]
    assert wups(["dog"], ["cat"], min(value + 1e-9, 1.0)).tolist() == [BELOW * value]


def test_the_values_are_float64_in_the_unit_interval_and_of_none_there_are_none() -> None:
    words = sorted({first for first, _, _ in RECORDED})
    values = wups(words, words[::-1], 0.9)
    assert values.dtype == np.float64
    assert (values >= 0).all()
    assert (values <= 1).all()
    assert wups([], [], 0.9).shape == (0,)


@pytest.mark.parametrize("word", ["", " ", "été", "日本", "!!!", "s", "men", "a" * 1000])
def test_unusual_answers_have_a_value(word: str) -> None:
    assert 0.0 <= float(wups([word], ["dog"], 0.9)[0]) < 1.0
    assert wups([word], [word], 0.9).tolist() == [1.0]


def test_lengths_that_differ_and_thresholds_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match="2 and 1"):
        wups(["a", "b"], ["a"], 0.9)
    with pytest.raises(DataError, match=r"1\.5"):
        wups(["a"], ["a"], 1.5)


@pytest.mark.parametrize(
    ("answers", "truths", "message"),
    [
        ("dog", "cat", r"answers are no list(.|\n)*'dog' \(str\)"),
        (["dog"], "a", r"true answers are no list"),
        (["dog", 3], ["dog", "3"], r"row 1 of the answers is no text(.|\n)*3 \(int\)"),
        (["dog"], [None], r"row 0 of the true answers is no text(.|\n)*None \(NoneType\)"),
        (["dog"], [{"answer": "dog"}], r"row 0 of the true answers is no text(.|\n)*\(dict\)"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(answers: Any, truths: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        wups(answers, truths, 0.9)


def test_a_package_without_the_tables_says_how_to_compile_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tests\.wordnet_hypernyms"):
        Hypernyms(tmp_path)


@pytest.mark.parametrize("name", list(DIGESTS))
def test_the_tables_are_those_that_the_generator_wrote(name: str) -> None:
    assert digest(pq.read_table(table_path(name))) == DIGESTS[name]
