"""What YAML may stand for is counted before anything is built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor

from stages.dvcfile import read_stages
from vqpipe.boards.board import Board, load_board
from vqpipe.cli.presets import preset_text
from vqpipe.errors import ParamsError
from vqpipe.library.foreign import FAMILIES, read_config
from vqpipe.params.base import MAX_MISTAKES, Params, load_merged, load_params, read_yaml, validate
from vqpipe.params.bounded_yaml import GENERATED, PARAMS, Limits, parse_yaml

NINES = [f"[{','.join([f'*a{i}'] * 9)}]" for i in range(9)]
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} {nine}\n" for i, nine in enumerate(NINES))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(60))
MERGES = "m0: &m0 {a: 1, b: 2}\n" + "".join(
    f"m{i}: &m{i} {{<<: [{','.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 9)
)
HOSTILE = {
    "aliases of aliases": (BOMB, "is too large"),
    "merges of merges": (MERGES, "is too large"),
    "many values": ("a: [" + "1," * PARAMS.num_values + "]", "is too large"),
    "brackets": ("a: " + "[" * 20_000 + "]" * 20_000, "nested too deeply"),
    "dashes": ("a:\n " + "- " * 20_000 + "x", "nested too deeply"),
    "aliases, each a level": (CHAIN, "nested too deeply"),
    "a mapping in itself": ("a: &a\n  b: *a", "contains itself"),
    "a list in itself": ("a: &a [1, [*a]]", "contains itself"),
    "a merge of itself": ("a: &a {b: 1, <<: *a}", "contains itself"),
}


class Plain(Params):
    a: Any
    b: int = 0


@pytest.fixture
def builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that goes on to build the content is a failure."""

    def build(*_: object) -> None:
        raise AssertionError("content was built from hostile YAML")

    monkeypatch.setattr(SafeConstructor, "construct_document", build)


@pytest.mark.slow
@pytest.mark.usefixtures("builds_nothing")
@pytest.mark.parametrize(("text", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml_is_refused_before_it_is_built_by_every_reader(
    text: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    (tmp_path / "p.yaml").write_text("base: q\n" + text)
    for read in (
        lambda: read_yaml(path),
        lambda: load_params(path, "a", Plain),
        lambda: load_merged(path, "a", "a.b", Plain),
        lambda: load_board(path, Board),
        lambda: read_config(path, FAMILIES),
        lambda: read_stages(tmp_path),
        lambda: preset_text("p", folder=tmp_path),
    ):
        with pytest.raises(ParamsError):
            read()
    with pytest.raises(ParamsError, match=problem) as caught:
        read_yaml(path)
    assert "found:" in str(caught.value)
    assert "expected:" in str(caught.value)


def test_the_count_is_that_of_the_content_written_out() -> None:
    text = "a: &a {b: [1, 2]}\nc: [*a, *a]\nd: {<<: *a}"  # 1 + (1 + 5) + (1 + 1 + 2 * 5) + (1 + 1 + 1 + 5)
    assert parse_yaml(text, "it", Limits(100, 27))["c"] == [{"b": [1, 2]}] * 2
    with pytest.raises(ParamsError, match="27 values or more"):
        parse_yaml(text, "it", Limits(100, 26))
    assert parse_yaml(text, "it", Limits(100, 100, depth=4))
    with pytest.raises(ParamsError, match="4 blocks or more"):
        parse_yaml(text, "it", Limits(100, 100, depth=3))


def test_the_value_of_an_override_is_bounded_too() -> None:
    for value in ("&a {b: *a}", "[" * 100 + "]" * 100):
        with pytest.raises(ParamsError, match=r"the value of \+dataset.more"):
            preset_text("scenes", [f"+dataset.more={value}"])


def test_an_alias_of_a_block_that_has_ended_is_read() -> None:
    assert parse_yaml("a: &a {b: 1}\nc: {<<: *a, d: *a}", "it")["c"] == {"b": 1, "d": {"b": 1}}


@pytest.mark.parametrize("fill", ["# comment\n", "- x\n", "x"])
def test_a_file_over_the_limit_is_not_parsed(
    fill: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(fill * (PARAMS.num_bytes // len(fill) + 1))
    monkeypatch.setattr(YAML, "load", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(ParamsError, match="too long") as caught:
        read_yaml(path)
    assert f"{PARAMS.num_bytes:,} bytes" in str(caught.value)


def test_the_files_of_dvc_may_be_longer(tmp_path: Path) -> None:
    path = tmp_path / "dvc.lock"
    path.write_text("a: 1\n" + "# x\n" * PARAMS.num_bytes)
    assert read_yaml(path, GENERATED) == {"a": 1}


@pytest.mark.parametrize("text", ["a: 2020-13-40", "a: " + "1" * 5000])
def test_a_value_that_python_refuses_is_a_sentence(text: str) -> None:
    with pytest.raises(ParamsError, match="it has a value"):
        parse_yaml(text, "it")


def test_many_mistakes_are_counted_and_long_values_are_cut() -> None:
    with pytest.raises(ParamsError, match=f"Plain has {10_000 - MAX_MISTAKES:,} more mistakes") as caught:
        validate({"a": 1, **{f"k{i}": 1 for i in range(10_000)}}, "Plain", Plain)
    assert str(caught.value).count("is not a field") == MAX_MISTAKES
    for wrong in ({"a": 1, "b": "x" * 10_000_000}, {"a": 1, "y" * 10_000_000: 1}):
        with pytest.raises(ParamsError) as caught:
            validate(wrong, "Plain", Plain)
        assert len(str(caught.value)) < 1000
