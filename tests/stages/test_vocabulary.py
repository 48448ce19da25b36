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
    "corpus": {"kind": "text", "path": "captions.txt"},
    "vocabulary": {"pos": {"kind": "wordnet"}, "min_count": 2, "max_adjectives": None, "max_nouns": None},
}
CAPTIONS = "a red bird\ntwo small red birds\n\na small bird in a tree\n\xff\xfe\n"


def run(folder: Path, changes: dict[str, Any] | None = None, out: str = "vocabulary") -> Result:
    params = {**PARAMS, "vocabulary": {**PARAMS["vocabulary"], **(changes or {})}}
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(params, stream)
    arguments = [
        f"--corpus={folder / 'captions.txt'}", f"--out={folder / out}", f"--metrics={folder / out}.json",
        f"--params={folder / 'params.yaml'}",
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
        ({"pos": {"kind": "wordnett"}}, "vocabulary.pos.kind"),
        ({"min_count": 0}, "vocabulary.min_count"),
        ({"min_count": 50}, "at most 'red', said 2 times"),
    ],
)
def test_mistakes_exit_2_and_publish_nothing(folder: Path, changes: dict[str, Any], message: str) -> None:
    result = run(folder, changes)
    assert result.exit_code == 2
    assert message in result.output
    assert not (folder / "vocabulary").exists()


def test_a_missing_corpus_is_told(folder: Path) -> None:
    (folder / "captions.txt").unlink()
    result = run(folder)
    assert result.exit_code == 2
    assert "captions.txt does not exist" in result.output
