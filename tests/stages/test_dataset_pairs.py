"""The source `pairs` through the stages: the examples of docs/data.md, equal bytes, and a vocabulary."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from stages.dataset import app
from stages.vocabulary import app as vocabulary
from tests.pair_layouts import LAYOUTS, NUM, caption
from vqpipe.artifacts.publish import tree_digest
from vqpipe.artifacts.specs.dataset import IMAGES
from vqpipe.artifacts.tables import read_table
from vqpipe.cli.presets import load_preset

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```yaml (\w+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


def params(source: dict[str, Any], **changes: Any) -> dict[str, Any]:
    content = load_preset("pairs")
    content["dataset"] |= {"source": source, "max_bad_fraction": 0.0, **changes}
    content["dataset"]["resize"]["short_side"] = 16
    YAML().dump(content, Path("params.yaml"))
    return content


def run(out: str) -> str:
    result = CliRunner().invoke(app, ["--out", out, "--metrics", f"{out}.json", "--params", "params.yaml"])
    assert result.exit_code == 0, result.output
    return tree_digest(Path(out))


def rows(out: str) -> dict[str, list[dict[str, Any]]]:
    return {split: read_table(Path(out) / f"{split}-00000.parquet", IMAGES).to_pylist()
            for split in ("train", "validation", "test")}  # fmt: skip


def test_the_page_has_an_example_of_each_layout() -> None:
    assert set(EXAMPLES) == set(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_example_of_a_layout_gives_every_image_its_caption(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = YAML(typ="safe").load(EXAMPLES[layout])["dataset"]["source"]
    if sum(source["holdout"][name] for name in ("validation", "test")):
        source["holdout"] = {"validation": 0.25, "test": 0.25, "seed": 3}
    LAYOUTS[layout](Path(source["path"]))
    params(source)
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    one = run("one")
    params({**source, "layout": None})
    monkeypatch.setenv("VQPIPE_WORKERS", "2")
    assert run("two") == one
    found = [row for split in rows("one").values() for row in split]
    assert sorted(row["captions"][0] for row in found) == sorted(caption(number) for number in range(NUM))
    assert all(len(row["captions"]) == 1 for row in found)
    metrics = json.loads(Path("one.json").read_text())
    assert (metrics["quarantined"], metrics["bad_annotation_fraction"], metrics["num_annotations"]) == (
        {},
        0.0,
        NUM,
    )
    assert metrics["num_classes"] == (3 if layout == "webdataset" else 0)


@pytest.mark.parametrize(("layout", "counts"), [("metadata", (4, 4, 4)), ("karpathy", (6, 3, 3))])
def test_stated_splits_are_kept(layout: str, counts: tuple[int, ...]) -> None:
    LAYOUTS[layout](Path("data"))
    params({"kind": "pairs", "path": "data", "holdout": {"validation": 0.4, "test": 0.4, "seed": 0}})
    run("out")
    assert tuple(len(split) for split in rows("out").values()) == counts


def test_a_vocabulary_comes_of_the_captions() -> None:
    LAYOUTS["webdataset"](Path("data"))
    holdout = {"validation": 0.2, "test": 0.2, "seed": 3}
    params({"kind": "pairs", "path": "data", "caption_field": "caption", "holdout": holdout})
    run("artifacts/dataset")
    words = [
        "--corpus",
        "artifacts/dataset",
        "--out",
        "words",
        "--metrics",
        "words.json",
        "--params",
        "params.yaml",
    ]
    result = CliRunner().invoke(vocabulary, words)
    assert result.exit_code == 0, result.output
    assert json.loads(Path("words.json").read_text())["num_captions"] == len(
        rows("artifacts/dataset")["train"]
    )


SHARDS = {"kind": "image_folder", "path": "data", "splits": {"train": "."}, "classes": "none", "templates": ["a x"],
          "holdout": {"validation": 0.3, "test": 0.3, "seed": 3}}  # fmt: skip
CAPTIONS = {"kind": "coco", "path": "data", "holdout": SHARDS["holdout"],
            "splits": {"train": {"images": "val2014", "captions": "dataset_coco.json"}}}  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "source"), [("webdataset", SHARDS), ("karpathy", CAPTIONS)], ids=["image_folder", "coco"]
)
def test_another_source_names_the_layout_and_the_params(layout: str, source: dict[str, Any]) -> None:
    LAYOUTS[layout](Path("data"))
    params(source)
    words = ["--out", "out", "--metrics", "out.json", "--params", "params.yaml"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    block = re.search(r"dataset\.source: (\{kind: pairs.*\}\})", result.output)
    assert block is not None, result.output
    given = YAML(typ="safe").load(block[1])
    assert given["layout"] == layout
    params({**given, "holdout": SHARDS["holdout"]})
    run("out")
    assert sum(map(len, rows("out").values())) == NUM


def test_captions_that_an_image_folder_passes_over_are_noted(capfd: pytest.CaptureFixture[str]) -> None:
    LAYOUTS["folder"](Path("data"))
    params(SHARDS)
    result = CliRunner().invoke(app, ["--out", "out", "--metrics", "out.json", "--params", "params.yaml"])
    assert result.exit_code == 0, result.output
    told = result.output + result.stderr + capfd.readouterr().err
    assert "captions in files of the images' names were not read" in told
    assert "kind: pairs" in told
    assert "layout: folder" in told
