"""Which adjective modifies which noun, case by case and on a treebank."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqpipe.errors import DataError
from vqpipe.params.graph import PhraseParams
from vqpipe.params.pos import WordnetPos
from vqpipe.text.phrases import pairs
from vqpipe.text.pos import tagger
from vqpipe.text.quality import read_conllu, score

TREEBANK = Path(__file__).parents[2] / "../shared/data/pos/en_ewt-ud-dev.conllu"
BACKEND = tagger(WordnetPos(kind="wordnet"))
PREDICATIVE = PhraseParams(predicative=True, shades="noun")
SHADES = PhraseParams(predicative=False, shades="color")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a small bird with a long yellow beak", "small bird, long beak, yellow beak"),
        ("a small red bird", "small bird, red bird"),
        ("a black and white cat", "black cat, white cat"),
        ("red and blue birds", "red bird, blue bird"),
        ("a red car and a blue truck", "red car, blue truck"),
        ("a red car and blue trucks", "red car, blue truck"),
        ("a large, round, shiny ball", "large ball, round ball, shiny ball"),
        ("a yellow fire hydrant", "yellow hydrant"),
        ("a red fire hydrant", "red hydrant"),
        ("a high school student", "high school"),
        ("a dark red bird", "dark bird, red bird"),
        ("a very large old building", "large building, old building"),
        ("three small brown dogs", "small dog, brown dog"),
        ("a red-haired woman's long coat", "red-haired woman, long coat"),
        ("a bird next to other birds", "other bird"),
        ("the bird is red", ""),
        ("the wall is green and a dog sleeps", ""),
        ("a dog and a cat", ""),
        ("", ""),
        ("\U0001f600 \x00 !!", ""),
        ("red", ""),
    ],
)
def test_attributive_pairs(caption: str, expected: str) -> None:
    found = ", ".join(" ".join(pair) for pair in pairs(caption, BACKEND))
    assert found == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the bird is red", [("red", "bird")]),
        ("the small birds are red and very blue", [("small", "bird"), ("red", "bird"), ("blue", "bird")]),
        ("the sky is not clear", []),
        ("the sky isn't clear", []),
        ("the bird is a red parrot", [("red", "parrot")]),
        ("it is red", []),
    ],
)
def test_predicative_pairs_on_request(caption: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(caption, BACKEND, PREDICATIVE) == expected


def test_shades_belong_to_colours_on_request() -> None:
    assert pairs("a dark red bird in a dark room", BACKEND, SHADES) == [("red", "bird"), ("dark", "room")]


def test_a_long_caption_costs_no_more_than_its_length() -> None:
    assert len(pairs("a red bird and " * 10_000, BACKEND)) == 133


def test_treebank_lines_must_have_ten_columns(tmp_path: Path) -> None:
    path = tmp_path / "bad.conllu"
    path.write_text("1\tdog\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.conllu:1"):
        list(read_conllu(path))


def test_scores_count_positions(tmp_path: Path) -> None:
    rows = [
        ("1", "A", "DET", "3", "det"), ("2", "red", "ADJ", "3", "amod"), ("3", "bird", "NOUN", "0", "root"),
        ("3.1", "x", "X", "_", "_"), ("4", "sang", "ADJ", "3", "amod"),
    ]  # fmt: skip
    lines = ["\t".join([i, w, w, tag, "_", "_", head, arc, "_", "_"]) for i, w, tag, head, arc in rows]
    path = tmp_path / "small.conllu"
    path.write_text("# text\n" + "\n".join(lines), encoding="utf-8")
    found = score(BACKEND, read_conllu(path))
    assert (found["pair_precision"], found["pair_recall"]) == (1.0, 0.5)
    assert (found["adjective_precision"], found["adjective_recall"]) == (1.0, 0.5)
    assert found["noun_f1"] == 1.0


@pytest.mark.skipif(not TREEBANK.is_file(), reason="the treebank is not on this machine")
def test_quality_on_a_treebank() -> None:
    found = score(BACKEND, read_conllu(TREEBANK))
    assert found["pair_f1"] >= 0.80
    assert found["noun_f1"] >= 0.93
    assert found["adjective_f1"] >= 0.86
