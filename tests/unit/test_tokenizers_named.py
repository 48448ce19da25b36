"""Which entry of the params a tokenizer's folder is: results are not published under the name of another."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest

from tests.tiny import TOKENIZER, write_tokenizer
from vqpipe.errors import MismatchError
from vqpipe.tokenizers.named import need_own_outputs, need_tokenizer, variants_like


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """Two variants that differ in one default, their tokenizers, and a copy of one in a folder of another name."""
    other = {**deepcopy(TOKENIZER["quantizer"]), "beta": 0.5}
    write_tokenizer(tmp_path / "a")
    write_tokenizer(tmp_path / "b", beta=0.5)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    write_tokenizer(tmp_path / "imported", num_codes=32)
    pairs = {
        "a-x": {"tokenizer": "a", "kind": "x"},
        "b-y": {"tokenizer": "b", "kind": "y"},
        "b-x": {"tokenizer": "b", "kind": "x"},
        "imported-x": {"tokenizer": "imported", "kind": "x"},
    }
    variants = {"a": {}, "b": {"quantizer": other}}
    content = {"tokenizer": {"common": TOKENIZER, "variants": variants}, "task": {"pairs": pairs}}
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(content))
    return path


def test_a_tokenizer_is_known_by_its_params_and_else_by_its_folder(params: Path) -> None:
    places = {name: variants_like(params.parent / name, params) for name in ("a", "b", "copy", "imported")}
    assert places == {"a": ["a"], "b": ["b"], "copy": ["a"], "imported": ["imported"]}
    shutil.rmtree(params.parent / "b")
    (params.parent / "a").rename(params.parent / "b")
    assert variants_like(params.parent / "b", params) == ["a"], "what it states counts more than its folder"


def test_another_tokenizer_than_the_pairs_is_refused(params: Path) -> None:
    for name, pair in (("a", "a-x"), ("copy", "a-x"), ("b", "b-x"), ("imported", "imported-x")):
        need_tokenizer(pair.partition("-")[0], params.parent / name, params, "task", pair)
    with pytest.raises(MismatchError) as raised:
        need_tokenizer("a", params.parent / "b", params, "task", "a-x")
    message = str(raised.value)
    assert f"found:    {params.parent / 'b'}, which is b" in message
    assert "choices:  b-y, b-x" in message
    assert f"run:      the same command with --tokenizer {params.parent / 'a'}, or with --pair b-x" in message


def test_an_output_may_have_any_name_but_that_of_another_entry(params: Path) -> None:
    need_own_outputs(["a"], [Path("evaluation/a"), Path("m.json"), Path("curves/a.csv")], params, "tokenizer")
    for path in (Path("evaluation/b"), Path("metrics/b.json"), Path("curves/b.csv")):
        with pytest.raises(MismatchError, match=f"an output of a, called b\n.*expected: {path.parent}/a"):
            need_own_outputs(["a"], [path], params, "tokenizer")
