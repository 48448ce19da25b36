"""`vqpipe artifacts show`: headers in words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.remedies import all_specs, not_there
from vqpipe.artifacts.run import stage_run
from vqpipe.artifacts.show import show
from vqpipe.artifacts.spec import FolderSpec, TableSpec, TensorSpec
from vqpipe.artifacts.specs.dataset import QUARANTINE
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.artifacts.verify import verify
from vqpipe.errors import ArtifactError, human_bytes

ROW = {"split": "train", "item": "a.png", "reason": "empty", "detail": "0 bytes"}


def test_the_catalogue_knows_every_spec_once() -> None:
    specs = all_specs()
    assert specs["quarantine"] is QUARANTINE
    assert all(name == spec.name and spec.version >= 1 and spec.stage for name, spec in specs.items())


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "q.parquet"
    write_table(path, QUARANTINE, to_table(QUARANTINE, [ROW] * 3), {"source": "photos"})
    text = show(path)
    assert "quarantine v1" in text
    assert QUARANTINE.about in text
    assert "source  photos" in text
    assert "3 rows, 4 columns" in text
    assert "reason  string" in text


def test_safetensors(tmp_path: Path) -> None:
    spec = TensorSpec("unheard-of", 9, {"a": "F32"}, stage="none")
    write_tensors(tmp_path / "t.safetensors", spec, {"a": torch.zeros(2, 3)}, {"long": ["word"] * 100})
    text = show(tmp_path / "t.safetensors")
    assert "unheard-of v9" in text
    assert "does not know that spec" in text
    assert "1 with 6 numbers" in text
    assert "F32  2 x 3" in text
    assert "100 entries" in text


def test_folder_with_sidecars(tmp_path: Path) -> None:
    spec = FolderSpec("box-test", 1, stage="boxes")
    with (
        stage_run("boxes", {"seed": 5}) as run,
        publish_folder(run.staged(tmp_path / "box"), spec, {"n": 2}) as partial,
    ):
        write_table(partial / "q.parquet", QUARANTINE, to_table(QUARANTINE, [ROW]))
        (partial / "notes.txt").write_text("hello")
    text = show(tmp_path / "box")
    assert "files: 2" in text
    assert "quarantine v1, 1 rows" in text
    assert 'params    {"seed": 5}' in text
    assert "cost: " in text
    assert "of memory at its peak" in text
    assert (
        show(tmp_path / "box" / "manifest.json").splitlines()[0]
        == f"{tmp_path / 'box' / 'manifest.json'}: box-test v1"
    )


def test_long_facts_are_cut_or_whole_with_the_number_of_each_entry(tmp_path: Path) -> None:
    facts = {
        "names": [f"class {at}" for at in range(60)],
        "none": [],
        "sizes": {str(at): at for at in range(60)},
    }
    write_table(tmp_path / "q.parquet", QUARANTINE, to_table(QUARANTINE, [ROW], facts), facts)
    assert "(60 entries, " in show(tmp_path / "q.parquet")
    whole = show(tmp_path / "q.parquet", full=True)
    assert "59 class 59\n" in whole
    assert '"59": 59, ' in whole
    assert "none   []\n" in whole


def test_an_older_version_is_pointed_out(tmp_path: Path) -> None:
    old = TableSpec("quarantine", 99, QUARANTINE.columns, stage="dataset")
    write_table(tmp_path / "q.parquet", old, to_table(old, [ROW]))
    assert "reads v1; run: dvc repro dataset" in show(tmp_path / "q.parquet")


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        show(tmp_path / "gone")
    (tmp_path / "all/tokenizer/lc").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"(?s)no manifest\.json.*found: +tokenizer"):
        show(tmp_path / "all")
    (tmp_path / "all/tokenizer/lc/manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match=f"run: +vqpipe artifacts show {tmp_path}/all/tokenizer/lc"):
        show(tmp_path / "all")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ArtifactError, match="is not an artifact"):
        show(tmp_path / "x.txt")


def test_a_damaged_sidecar_is_told(tmp_path: Path) -> None:
    path = tmp_path / "q.parquet"
    write_table(path, QUARANTINE, to_table(QUARANTINE, [ROW]))
    (tmp_path / "q.parquet.cost.json").write_text(json.dumps([1]))
    with pytest.raises(ArtifactError, match="not a JSON object"):
        show(path)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (4e12, "4.0 TB")]
)
def test_human_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("given", "near", "run"),
    [
        ("lc", "artifacts/tokenizer/lc", None),
        ("artifacts/tokenizr", "artifacts/tokenizer", None),
        ("artifacts/tokenizer/lcc", "artifacts/tokenizer/lc", None),
        ("artifacts/tokenizer/vq+lg", None, "dvc repro tokenizer@vq+lg"),
        ("artifacts/tokens/vq+lg", None, "dvc repro tokens@vq+lg"),
        ("artifacts/evaluation/lc", None, "dvc repro evaluate@lc"),
        ("artifacts/codebook/words", None, "dvc repro graph"),
        ("artifacts/clip", None, "dvc repro clip"),
        ("elsewhere/clip", None, None),
    ],
)
def test_a_path_where_nothing_is_has_the_nearest_and_the_command_that_makes_it(
    given: str, near: str | None, run: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts/tokenizer/lc").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text(json.dumps({"tokenizer": {"variants": {"lc": {}, "vq+lg": {}}}}))
    lines = str(not_there(Path(given))).splitlines()
    assert lines[0] == f"{given} does not exist" + (f"; did you mean {near}?" if near else "")
    assert [line for line in lines if "run:" in line] == ([f"  run:      {run}"] if run else [])
    for read in (show, lambda path: verify([path])):
        with pytest.raises(ArtifactError, match=re.escape(lines[0])):
            read(Path(given))
