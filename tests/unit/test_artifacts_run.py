"""Lineage and cost beside what a stage publishes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vqpipe.artifacts.publish import publish_text, tree_digest
from vqpipe.artifacts.run import stage_run
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.errors import ArtifactError


def run_once(folder: Path, params: dict[str, int], text: str = "out") -> tuple[str, Path]:
    source = folder / "source.txt"
    if not source.exists():
        source.write_text("in")
    with stage_run("copying", params, inputs=[source]) as run:
        publish_text(run.staged(folder / "out.txt"), text)
        run.metrics(folder / "metrics.json", {"x": 1.5})
        key = run.key()
    return key, folder / "out.txt"


def test_sidecars_say_where_it_came_from_and_what_it_cost(tmp_path: Path) -> None:
    _, out = run_once(tmp_path, {"k": 1})
    lineage = json.loads((tmp_path / "out.txt.lineage.json").read_text())
    assert lineage["stage"] == "copying"
    assert lineage["params"] == {"k": 1}
    assert lineage["inputs"] == {"source.txt": tree_digest(tmp_path / "source.txt")}
    assert lineage["output"] == tree_digest(out)
    assert "torch" in lineage["packages"]
    cost = json.loads((tmp_path / "out.txt.cost.json").read_text())
    assert cost["seconds"] >= 0
    assert cost["peak_memory_bytes"] > 1_000_000
    assert read_sealed_json(tmp_path / "metrics.json") == {"x": 1.5}


def test_lineage_holds_no_path_of_the_machine(tmp_path: Path) -> None:
    run_once(tmp_path, {"k": 1})
    assert str(tmp_path) not in (tmp_path / "out.txt.lineage.json").read_text()


def test_the_key_follows_params_and_inputs_alone(tmp_path: Path) -> None:
    first, _ = run_once(tmp_path, {"k": 1})
    again, _ = run_once(tmp_path, {"k": 1}, text="another output")
    other, _ = run_once(tmp_path, {"k": 2})
    (tmp_path / "source.txt").write_text("changed")
    changed, _ = run_once(tmp_path, {"k": 1})
    assert first == again
    assert len({first, other, changed}) == 3


def test_a_failed_stage_writes_no_sidecars(tmp_path: Path) -> None:
    def fail() -> None:
        with stage_run("copying", {}) as run:
            publish_text(run.staged(tmp_path / "out.txt"), "x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_input_is_told_before_any_work(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match=r"copying: input .*gone does not exist"),
        stage_run("copying", {}, inputs=[tmp_path / "gone"]),
    ):
        pytest.fail("the block ran")
