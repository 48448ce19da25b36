"""The benchmark of the part-of-speech backends prints its tables, and says what it could not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.text import main

TREEBANK = """
1	a	a	DET	_	_	3	det	_	_
2	red	red	ADJ	_	_	3	amod	_	_
3	bird	bird	NOUN	_	_	0	root	_	_
"""


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.conllu").write_text(TREEBANK.lstrip() + "\n")
    row = {"id": "1", "caption": "a red bird", "adjectives": ["red"], "nouns": ["bird"]}
    row |= {"pairs": [["red", "bird"]], "predicative": []}
    (tmp_path / "labelled.jsonl").write_text(json.dumps(row))
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": [{"caption": "a red bird"}]}))
    main(tmp_path / "small.conllu", [tmp_path / "labelled.jsonl"], tmp_path / "captions.json", "en_core_none")
    lines = capsys.readouterr().out.splitlines()
    scored = [line for line in lines if line.startswith("wordnet  ")]
    assert scored[0].count("1.000 / 1.000 / 1.000") == 3
    assert scored[1].count("1.000") == 8
    assert "captions/s" in scored[2]
    assert any("pip install en-core-none" in line for line in lines)


def test_what_is_not_here_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(tmp_path / "none.conllu", [tmp_path / "none.jsonl"], tmp_path / "none.json", "en_core_none")
    output = capsys.readouterr().out
    assert "none.conllu is not here: give --treebank PATH" in output
    assert "not scored: labelled captions" in output
    assert "scenes (none.json is not here)" in output
