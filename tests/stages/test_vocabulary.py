"""The vocabulary stage: its output, its metrics, byte-identical re-runs, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from stages.vocabulary import app
from vqpipe.artifacts.publish import tree_digest
from vqpipe.text.vocabulary import read_vocabulary

PARAMS: dict[str, Any] = {
    "corpus": {"kind": "text", "path": "captions.txt", "max_bad_fraction": 0.5},
    "vocabulary": {
        "pos": {"kind": "wordnet"},
        "phrases": {"predicative": False, "shades": "noun"},
        "min_count": 2,
        "max_adjectives": None,
        "max_nouns": None,
    },
}
CAPTIONS = "a red bird\ntwo small red birds\n\na small bird in a tree\n\xff\xfe\n"


def run(
    folder: Path,
    changes: dict[str, Any] | None = None,
    out: str = "vocabulary",
    corpus: dict[str, Any] | None = None,
) -> Result:
    params = {**PARAMS, "vocabulary": {**PARAMS["vocabulary"], **(changes or {})}}
    if corpus is not None:
        params["corpus"] = corpus
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(params, stream)
    arguments = [
        f"--corpus={folder if corpus else folder / 'captions.txt'}", f"--out={folder / out}",
        f"--metrics={folder / out}.json", f"--params={folder / 'params.yaml'}",
    ]  # fmt: skip
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "captions.txt").write_bytes(CAPTIONS.encode("latin-1"))
    return tmp_path


def test_publishes_words_and_metrics(folder: Path) -> None:
    result = run(folder)
    assert result.exit_code == 0, result.output
    vocabulary = read_vocabulary(folder / "vocabulary")
    assert vocabulary.adjectives == {"red": 2, "small": 2}
    assert vocabulary.nouns == {"bird": 3}
    assert [row["count"] for row in vocabulary.pairs.to_pylist()] == [2, 2]
    metrics = json.loads((folder / "vocabulary.json").read_text())
    assert (metrics["num_captions"], metrics["num_nouns_said"]) == (3, 2)
    assert sum(metrics["captions_unusable"].values()) == 2
    assert (folder / "vocabulary.lineage.json").is_file()


def test_a_second_run_gives_the_same_bytes(folder: Path) -> None:
    for out in ("first", "second"):
        assert run(folder, out=out).exit_code == 0
    assert tree_digest(folder / "first") == tree_digest(folder / "second")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_counts": 3}, "did you mean min_count?"),
        ({"pos": {"kind": "wordnett"}}, "did you mean wordnet?"),
        ({"min_count": 0}, "vocabulary.min_count"),
        ({"phrases": {"predicative": True, "shades": "red"}}, "vocabulary.phrases.shades"),
        ({"min_count": 50}, "at most 'red', 2 times"),
    ],
)
def test_mistakes_exit_2_and_publish_nothing(folder: Path, changes: dict[str, Any], message: str) -> None:
    result = run(folder, changes)
    assert result.exit_code == 2
    assert message in result.output
    assert not (folder / "vocabulary").exists()


def test_a_missing_corpus_is_reported(folder: Path) -> None:
    (folder / "captions.txt").unlink()
    result = run(folder)
    assert result.exit_code == 2
    assert "captions.txt does not exist" in result.output


ODD = [
    b"", b" \t ", b"caf\xe9 red bird", b"a red\x00bird", b"<b>red bird</b> &amp; tree",
    b"red bird " + b"word " * 10_000,
    "\U0001f426 \U0001f525".encode(), "красная птица".encode(), "红色的鸟".encode(), b"a red bird", b"a red bird",
]  # fmt: skip


def test_odd_captions_of_several_sources_are_each_counted(folder: Path) -> None:
    (folder / "captions.txt").write_bytes(b"\n".join(ODD) + b"\n")
    rows = [{"image_id": 1, "caption": text} for text in ("a red bird", "a red bird", "a green bird", None)]
    (folder / "captions.json").write_text(json.dumps({"annotations": rows}))
    half = {"max_bad_fraction": 0.5}
    sources = [
        {"kind": "text", "path": "captions.txt", **half}, {"kind": "coco", "path": "captions.json", **half}
    ]  # fmt: skip
    result = run(folder, corpus={"kind": "many", "path": "elsewhere", "sources": sources, **half})
    assert result.exit_code == 0, result.output
    metrics = json.loads((folder / "vocabulary.json").read_text())
    unusable = metrics["captions_unusable"]
    assert unusable == {"empty_caption": 2, "caption_not_utf8": 1, "caption_not_text": 1}
    assert metrics["num_captions"] + sum(unusable.values()) == len(ODD) + len(rows)
    marks = ("control", "markup", "cut", "empty", "other_script", "repeated")
    assert [metrics[f"captions_{mark}"] for mark in marks] == [1, 1, 1, 1, 2, 1]
    assert metrics["num_words_other_script"] >= 2
    vocabulary = read_vocabulary(folder / "vocabulary")
    assert vocabulary.adjectives == {"red": 7}
    assert vocabulary.nouns["bird"] == 8


def test_a_corpus_that_is_mostly_unusable_publishes_nothing(folder: Path) -> None:
    (folder / "captions.txt").write_bytes("красная птица\n\na red bird\na red bird\n🌳\n".encode())
    result = run(folder)
    assert result.exit_code == 2
    assert "60.0% of the captions are unusable" in result.output
    assert "of 5: 1 empty_caption, 1 other_script, 1 empty" in result.output.replace(
        "1 empty, 1 other_script", "1 other_script, 1 empty"
    )
    assert not (folder / "vocabulary").exists()
    limit = {"kind": "text", "path": "captions.txt", "max_bad_fraction": 0.6}
    sources = {"kind": "many", "path": ".", "sources": [limit], "max_bad_fraction": 0.6}
    result = run(folder, corpus=sources)
    assert result.exit_code == 0, result.output
    assert "warning: 60.0% of the captions are unusable" in result.output
    assert json.loads((folder / "vocabulary.json").read_text())["unusable_share"] == 0.6


def test_one_source_of_many_that_is_mostly_unusable_is_reported(folder: Path) -> None:
    (folder / "good.txt").write_text("a red bird\n" * 50)
    (folder / "captions.txt").write_bytes(b"\n\na red bird\n")
    sources = [{"kind": "text", "path": "good.txt"}, {"kind": "text", "path": "captions.txt"}]
    result = run(folder, corpus={"kind": "many", "path": ".", "sources": sources})
    assert result.exit_code == 2
    assert "captions.txt, 66.7% of the captions cannot be used" in result.output
    assert not (folder / "vocabulary").exists()


def test_utf16_gives_the_words_that_utf8_gives(folder: Path) -> None:
    text = "a red fox beside a wooden box\r\ntwo black dogs near a white fence\r\n" * 20
    digests = []
    for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-16-be"):
        (folder / "captions.txt").write_bytes(text.encode(encoding))
        result = run(folder, out=encoding)
        assert result.exit_code == 0, result.output
        digests.append(tree_digest(folder / encoding))
    assert len(set(digests)) == 1
    assert read_vocabulary(folder / "utf-16").nouns == {"box": 20, "dog": 20, "fence": 20, "fox": 20}


def test_single_clip_tokens(folder: Path) -> None:
    text = "a red hummingbird\na red hummingbird\na red bird\na red bird\na teal-coloured bird\na teal-coloured bird\n"
    (folder / "captions.txt").write_text(text)
    result = run(folder, {"single_clip_tokens": True})
    assert result.exit_code == 0, result.output
    vocabulary = read_vocabulary(folder / "vocabulary")
    assert list(vocabulary.nouns) == ["bird", "hummingbird"]
    assert list(vocabulary.adjectives) == ["red"]
    metrics = json.loads((folder / "vocabulary.json").read_text())
    assert (metrics["num_adjectives_not_single_tokens"], metrics["num_nouns_not_single_tokens"]) == (1, 0)
