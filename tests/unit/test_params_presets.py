"""Presets: bases, overrides and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc.utils.serialize import parse_yaml
from ruamel.yaml import YAML

from vqpipe.cli.presets import describe, load_preset, preset_names, preset_text
from vqpipe.errors import ParamsError

BASE = """\
# The base.
dataset:
  source:
    kind: scenes
    seed: 1  # any whole number
  num_train: 4000
tokenizer:
  # Two of them.
  variants:
    vq: {num_codes: 8, rate: 1e-4}
    lc: {num_codes: 16, rate: 1e-3}
"""
COCO = """\
base: scenes
description: the captions of COCO
dataset:
  source:
    kind: coco
    path: data
  num_train: 80
"""
ONE = """\
base: coco
description: one variant
replace: [tokenizer.variants]
tokenizer:
  variants:
    only: {num_codes: 4}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"scenes": BASE, "coco": COCO, "one": ONE}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def test_names_and_descriptions(folder: Path) -> None:
    assert preset_names(folder) == ["coco", "one", "scenes"]
    assert describe("coco", folder) == "the captions of COCO"
    assert describe("scenes", folder) == "The base."


def test_a_base_is_printed_as_it_is(folder: Path) -> None:
    assert preset_text("scenes", folder=folder) == BASE


def test_another_kind_replaces_and_the_rest_merges(folder: Path) -> None:
    content = load_preset("coco", folder=folder)
    assert content["dataset"] == {"source": {"kind": "coco", "path": "data"}, "num_train": 80}
    assert set(content["tokenizer"]["variants"]) == {"vq", "lc"}
    assert not {"base", "description", "replace"} & set(content)


def test_replace_and_a_chain_of_bases(folder: Path) -> None:
    content = load_preset("one", folder=folder)
    assert content["tokenizer"]["variants"] == {"only": {"num_codes": 4}}
    assert content["dataset"]["num_train"] == 80


def test_the_text_keeps_comments_and_number_forms(folder: Path) -> None:
    text = preset_text("coco", ["tokenizer.variants.vq.num_codes=9"], folder)
    assert text.startswith("# Preset coco: the captions of COCO.\n")
    assert "# Two of them." not in text, "one of them is another"
    assert "# Two of them." in preset_text("coco", ["dataset.num_train=9"], folder)
    assert "# The base." not in text
    assert "1e-4" in text
    assert YAML(typ="safe", pure=True).load(text)["tokenizer"]["variants"]["vq"]["num_codes"] == 9


def test_a_comment_is_there_only_with_the_value_that_it_was_written_for(folder: Path) -> None:
    (folder / "said.yaml").write_text(
        "a:\n  # Why 1.\n  one: 1\n  two: '#2' # why 2\n  # Of the block.\n  block:\n    # Why 3.\n    three: 3\n"
        "    four: 4 # why 4\n# The end.\nlast: 5\n"
    )
    (folder / "on.yaml").write_text("base: said\na:\n  # Why 10.\n  one: 10\n  block:\n    three: 30\n")
    assert preset_text("on", folder=folder) == (
        "# Preset on.\na:\n  # Why 10.\n  one: 10\n  two: '#2' # why 2\n  block:\n    three: 30\n    four: 4 # why 4\n"
        "\n# The end.\nlast: 5\n"
    )
    text = preset_text("said", ["a.two=3", "last=6"], folder)
    assert text == (
        "a:\n  # Why 1.\n  one: 1\n  two: 3\n  # Of the block.\n  block:\n    # Why 3.\n    three: 3\n"
        "    four: 4 # why 4\n\nlast: 6\n"
    )


def test_overrides_are_typed(folder: Path) -> None:
    sets = [
        "dataset.num_train=12",
        "tokenizer.variants.vq.rate=3e-4",
        "+dataset.extra={a: [1, null]}",
        "dataset.source.kind=x=y",
    ]
    content = load_preset("scenes", sets, folder)
    assert content["dataset"]["num_train"] == 12
    assert content["tokenizer"]["variants"]["vq"]["rate"] == 3e-4
    assert content["dataset"]["extra"] == {"a": [1, None]}
    assert content["dataset"]["source"]["kind"] == "x=y"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "dataset.num_trian=1",
            r"(?s)no key dataset\.num_trian; did you mean num_train\?.*choices:.*\+dataset\.num_trian=1",
        ),
        ("datasets.num_train=1", r"no key datasets; did you mean dataset\?"),
        ("dataset.num_train.x=1", r"no key dataset\.num_train\.x"),
        ("dataset.num_train", "sets one key"),
        ("=1", "sets one key"),
        ("dataset.num_train=[", "not valid YAML"),
    ],
)
def test_wrong_overrides(folder: Path, override: str, told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        preset_text("scenes", [override], folder)


def test_an_override_changes_one_of_two_blocks_that_are_an_alias(folder: Path) -> None:
    text = "a: &block {deep: {rate: 1}, list: [{rate: 2}]}\nb: *block\nc: [*block]\n"
    (folder / "twice.yaml").write_text(text)
    (folder / "on.yaml").write_text("base: twice\nb: {deep: {more: 5}}\n")
    changed = load_preset("on", ["b.deep.rate=3"], folder)
    block = {"deep": {"rate": 1}, "list": [{"rate": 2}]}
    assert changed == {"a": block, "b": block | {"deep": {"rate": 3, "more": 5}}, "c": [block]}
    assert "&" not in preset_text("on", folder=folder)


def test_the_opening_comment_is_the_presets_own_and_not_the_bases(folder: Path) -> None:
    (folder / "own.yaml").write_text(
        "base: scenes\ndescription: mine\n# Weights of table 2.\ndataset: {num_train: 5}\n# no\n"
    )
    assert preset_text("own", folder=folder).startswith(
        "# Preset own: mine.\n# Weights of table 2.\ndataset:\n"
    )


def test_unknown_preset(folder: Path) -> None:
    with pytest.raises(
        ParamsError, match=r"(?s)no preset cocoa; did you mean coco\?.*choices: +coco, one, scenes"
    ):
        preset_text("cocoa", folder=folder)


def test_bases_that_form_a_cycle(folder: Path) -> None:
    (folder / "scenes.yaml").write_text("base: one\n")
    with pytest.raises(ParamsError, match="cycle"):
        preset_text("coco", folder=folder)


@pytest.mark.parametrize(("text", "told"), [("a: [", "not valid YAML"), ("- a", "not a mapping")])
def test_damaged_presets(folder: Path, text: str, told: str) -> None:
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(ParamsError, match=told):
        preset_text("bad", folder=folder)


HOSTILE = [
    "/data/set #2", "yes", "1e3", "[a]", "{a: b}", "null", "~", "~/x", "it's", 'a "b"', "a: b", "- x", "&a", "*b",
    "%x", "C:\\x", "12:30:45", " a  b ", "é", "${y}", "a\tb", "$HOME", "-x", "0x1F", "2020-01-01", "true", "@x", "`x`",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_field_takes_the_text_as_it_is(text: str) -> None:
    fields = ["dataset.source.path", "corpus.path", "dataset.source.splits.train"]
    written = preset_text("image-folder", [f"{name}={text}" for name in fields])
    for loaded in (
        YAML(typ="safe", pure=True).load(written),
        parse_yaml(written, "params.yaml"),
    ):  # DVC's parser too
        assert loaded["dataset"]["source"]["path"] == text
        assert loaded["dataset"]["source"]["splits"]["train"] == text
        assert loaded["corpus"]["path"] == text


def test_other_fields_take_yaml() -> None:
    sets = [
        "dataset.resize.short_side=null", "dataset.source.class_names=null", "graph.min_count=3",
        "tokenizer.variants.lc.quantizer.beta=1e-1", "cluster.prefixes=[16, 32]", "cluster.spherical=true",
        "dataset.source.templates=['a {}', 'the {}']",
    ]  # fmt: skip
    params = load_preset("image-folder", sets)
    source, cluster = params["dataset"]["source"], params["cluster"]
    assert (params["dataset"]["resize"]["short_side"], source["class_names"]) == (None, None)
    assert (params["graph"]["min_count"], cluster["prefixes"], cluster["spherical"]) == (3, [16, 32], True)
    assert params["tokenizer"]["variants"]["lc"]["quantizer"]["beta"] == 0.1
    assert source["templates"] == ["a {}", "the {}"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("graph.min_count=many", r"(?s)preset pico with --set: graph\.min_count.*'many'"),
        ("corpus.path=", "at least 1 character"),
        ("+graph.min_cuont=3", r"graph\.min_cuont is not a field; did you mean min_count"),
        ("tokenizer.variants.lc.quantizer.kind=lcc", r"tokenizer\.variants\.lc\.quantizer"),
        ("tokenizer=5", "not a block"),
    ],
)
def test_a_value_that_no_stage_accepts_is_refused(override: str, told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        preset_text("pico", [override])
