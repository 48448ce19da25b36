"""The scores of tags and pairs, the causes of wrong pairs, and the files they are read from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.text_quality import Gold, Scores, mistakes, read_conllu, read_labelled, score, score_captions
from vqpipe.errors import DataError
from vqpipe.text.phrases import PLAIN
from vqpipe.text.pos import tagger
from vqpipe.text.tagger import Analysis, Word
from vqpipe.text.wordnet_tagger import WordnetPos

BACKEND = tagger(WordnetPos(kind="wordnet"))


def gold(tmp_path: Path, *rows: str) -> list[Gold]:
    lines = [
        "\t".join([number, word, word, tag, "_", "_", head, arc, "_", "_"])
        for number, word, tag, head, arc in (row.split() for row in rows)
    ]
    path = tmp_path / "small.conllu"
    path.write_text("# text\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return list(read_conllu(path))


def said(tags: str, *pairs: tuple[int, int]) -> Analysis:
    names = {"J": "adjective", "N": "noun", "V": "verb", "C": "conjunction", "R": "adverb"}
    return Analysis([Word("w", "w", names[tag]) for tag in tags], list(pairs))


def test_treebank_lines_must_have_ten_columns(tmp_path: Path) -> None:
    path = tmp_path / "bad.conllu"
    path.write_text("1\tdog\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.conllu:1"):
        list(read_conllu(path))
    with pytest.raises(DataError, match="does not exist"):
        list(read_conllu(tmp_path / "none.conllu"))


def test_scores_count_positions(tmp_path: Path) -> None:
    sentences = gold(
        tmp_path,
        "1 A DET 3 det",
        "2 red ADJ 3 amod",
        "3 bird NOUN 0 root",
        "3.1 x X _ _",
        "4 sang ADJ 3 amod",
    )
    assert len(sentences[0].tokens) == 4
    scores = score(BACKEND.analyse_tokens([one.tokens for one in sentences], PLAIN), sentences)
    assert scores["pair"][:2] == (1.0, 0.5)
    assert scores["adjective"][:2] == (1.0, 0.5)
    assert scores["noun"].f1 == 1.0
    assert scores["words"].f1 == 0.75


def test_coordinated_adjectives_are_asked_for_apart(tmp_path: Path) -> None:
    sentences = gold(
        tmp_path, "1 red ADJ 4 amod", "2 and CCONJ 3 cc", "3 blue ADJ 1 conj", "4 birds NOUN 0 root"
    )
    assert sentences[0].pairs == {(0, 3)}
    assert sentences[0].joined == {(0, 3), (2, 3)}
    scores = score([said("JCJN", (0, 3), (2, 3))], sentences)
    assert scores["pair"] == pytest.approx((0.5, 1.0, 2 / 3))
    assert scores["joined"] == (1.0, 1.0, 1.0)


def test_nothing_stated_scores_nothing() -> None:
    assert Scores.of(0, 0, 0) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("analysis", "causes"),
    [
        (
            said("JCJNN", (0, 3), (2, 3)),
            {"false: coordinated adjective (the treebank hangs it on the first)"},
        ),
        (said("NCNNN"), {"missed: adjective taken for noun"}),
        (said("JCJVN"), {"missed: noun taken for verb"}),
        (said("JCJNN"), {"missed: conjunction between them"}),
        (said("JCJNN", (0, 4)), {"missed: another noun of the phrase", "false: another noun of the phrase"}),
        (said("JJCNN", (0, 3), (1, 3)), {"false: CCONJ taken for an adjective"}),
    ],
)
def test_causes(analysis: Analysis, causes: set[str], tmp_path: Path) -> None:
    sentences = gold(
        tmp_path, "1 red ADJ 4 amod", "2 and CCONJ 3 cc", "3 blue ADJ 1 conj", "4 birds NOUN 0 root",
        "5 nest NOUN 4 nmod",
    )  # fmt: skip
    found = list(mistakes([analysis], sentences))
    assert {f"{one.kind}: {one.cause}" for one in found} == causes
    assert all(one.sentence == "red and blue birds nest" for one in found)


def test_labelled_captions_are_compared_as_multisets(tmp_path: Path) -> None:
    row = {
        "id": 7, "caption": "a red bird and a red bird; the boats are blue", "adjectives": ["red", "red", "blue"],
        "nouns": ["bird", "bird", "boat"], "pairs": [["red", "bird"], ["red", "bird"]],
        "predicative": [["blue", "boat"]],
    }  # fmt: skip
    path = tmp_path / "labelled.jsonl"
    path.write_text(json.dumps(row) + "\n")
    captions = read_labelled(path)
    assert captions[0].id == "7"
    found = list(BACKEND.analyse([captions[0].caption], PLAIN))
    assert score_captions(found, captions, predicative=False)["pair"] == (1.0, 1.0, 1.0)
    assert score_captions(found, captions, predicative=False)["noun"] == (1.0, 1.0, 1.0)
    assert score_captions(found, captions, predicative=True)["pair"].recall == pytest.approx(2 / 3)
    once = [found[0]._replace(pairs=found[0].pairs[:1])]
    assert score_captions(once, captions, predicative=False)["pair"].recall == 0.5


@pytest.mark.parametrize("line", ["{", '{"id": 1}', '{"id": 1, "pairs": [["red"]], "predicative": []}', "3"])
def test_a_bad_label_is_reported_by_its_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "labelled.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=r"labelled\.jsonl:1"):
        read_labelled(path)
    with pytest.raises(DataError, match="do not exist"):
        read_labelled(tmp_path / "none.jsonl")
