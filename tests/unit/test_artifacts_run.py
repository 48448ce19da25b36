"""Lineage and cost beside what a stage publishes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vqpipe.artifacts import run as run_module
from vqpipe.artifacts.publish import publish_folder, publish_text, tree_digest
from vqpipe.artifacts.run import StageRun, stage_run
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK, TOKENIZER
from vqpipe.errors import ArtifactError
from vqpipe.runtime.code import stage_code


def run_once(folder: Path, params: dict[str, int], text: str = "out") -> tuple[StageRun, Path]:
    source = folder / "source.txt"
    if not source.exists():
        source.write_text("in")
    with stage_run("copying", params, inputs=[source]) as run:
        publish_text(run.staged(folder / "out.txt"), text)
        run.metrics(folder / "metrics.json", {"x": 1.5})
    return run, folder / "out.txt"


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


def test_checkpoints_are_found_again_by_params_inputs_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    code = ["first"]
    monkeypatch.setattr(run_module, "stage_code", lambda stage, kinds: f"{stage} {code[-1]} {sorted(kinds)}")
    (tmp_path / "source.txt").write_text("in")

    def scratch(k: int) -> Path:
        with stage_run("copying", {"k": k}, inputs=[tmp_path / "source.txt"]) as run:
            return run.scratch()

    first = scratch(1)
    assert scratch(1) == first
    other = scratch(2)
    (tmp_path / "source.txt").write_text("changed")
    changed = scratch(1)
    code.append("second")
    assert len({first, other, changed, scratch(1)}) == 4


def test_the_code_is_that_of_the_plugins_that_the_params_name(tmp_path: Path) -> None:
    digests = {}
    for kind in ("vq", "ema"):
        with stage_run("tokenizer", {"quantizer": {"kind": kind}}) as run:
            digests[kind] = run.code
    assert digests["vq"] == stage_code("tokenizer", kinds={"quantizer", "kind", "vq"})
    assert digests["vq"] != digests["ema"]


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


def test_a_checkpoints_code_is_also_that_of_the_plugins_that_made_the_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    asked: list[set[str] | None] = []

    def noted(stage: str, kinds: set[str] | None = None) -> str:
        asked.append(kinds)
        return f"code {len(asked)}"

    monkeypatch.setattr(run_module, "stage_code", noted)
    tokenizer = tmp_path / "tokenizer"
    with stage_run("tokenizer", {"quantizer": {"kind": "vq"}}) as run:
        publish_text(run.staged(tokenizer), "weights")
    (tmp_path / "images").write_text("of no stage")
    inputs = {tokenizer: "tokenizer", tmp_path / "images": None}
    StageRun("prior", {"width": 8}, inputs).scratch()
    assert asked[-1] == {"width", "quantizer", "kind", "vq"}
    (tmp_path / "tokenizer.lineage.json").unlink()  # it may be of any kind
    StageRun("prior", {"width": 8}, inputs).scratch()
    assert asked[-1] is None
    with publish_folder(
        tmp_path / "imported", TOKENIZER, {"config": {"quantizer": {"kind": "fsq"}}}
    ) as folder:
        (folder / "model.safetensors").write_bytes(b"")
    StageRun("prior", {"width": 8}, {tmp_path / "imported": "tokenizer"}).scratch()
    assert asked[-1] == {"width", "config", "quantizer", "kind", "fsq"}
    with publish_folder(tmp_path / "none", NO_CODEBOOK, {}):
        pass
    StageRun("prior", {"width": 8}, {tmp_path / "none": "no-codebook"}).scratch()
    assert asked[-1] == {"width"}
