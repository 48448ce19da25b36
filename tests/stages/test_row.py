"""The row stage end to end, with and without tasks, and that a row that was killed ends with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from stages import row as stage
from stages.boards import missing_rows
from tests.damage import DAMAGES
from tests.small_alignment import GLOBAL, MASKED, RELATIONSHIP
from tests.small_alignment import params as heads
from tests.small_training import merged
from tests.tiny import TOKENIZER, write_dataset, write_tiny_clip
from vqpipe.alignment.aligner import TextBatch
from vqpipe.artifacts.publish import publish_sealed, write_manifest
from vqpipe.artifacts.seal import parse_sealed
from vqpipe.artifacts.spec import header_for
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK
from vqpipe.boards.row import TrainingSpent, _kept_spent
from vqpipe.errors import ParamsError
from vqpipe.report.gate import flatten, records
from vqpipe.tasks.caption_tasks import TrainCaptions

ALIGN = heads(max_tokens=7).model_dump(mode="json")
STEPS = {"num_steps": 4, "batch_size": 4, "log_every": 2, "checkpoint_every": 2, "ema_decay": 0.9}
EVALUATE: dict[str, Any] = {
    "seed": 0, "num_images": None, "batch_size": 8, "num_bootstrap": 100,
    "perceptual": {"kind": "clip", "layers": [0]},
    "distances": {"features": "clip", "num_subsets": 2, "subset_images": 8, "num_neighbours": 3, "seed": 0},
    "floors": {"num_patches": 8, "num_iterations": 1, "max_num_codes": 2},
    "examples": {"num_images": 0, "num_codes": 0, "num_patches": 0},
}  # fmt: skip
HEAD = {"width": 16, "num_layers": 1, "num_heads": 2, "max_tokens": 8}
TASKS: dict[str, Any] = {
    "training": None, "seed": 0, "num_images": None, "batch_size": 8, "num_bootstrap": 100, "num_pictures": 0,
    "masked_words": {"head": HEAD, "masked": MASKED, "masked_counts": [1, 3], "num_predictions": 1},
    "retrieval": {"head": HEAD, "contrastive": GLOBAL, "num_candidates": 1},
    "relations": {"head": HEAD, "masked": MASKED, "relationship": RELATIONSHIP},
}  # fmt: skip
KINDS = ("masked_words", "retrieval", "relations")
BASE = {"protocol": 1, "common": merged(TOKENIZER, {"training": STEPS}), "evaluate": EVALUATE}
QUANTIZER = {"quantizer": {"num_codes": 16}}
ROWS = {"vq": {"align": None, **QUANTIZER}, "vq+lg": QUANTIZER}
RUNS = {f"{row}-0": {"row": row, "seed": 0, "codebook": "none"} for row in ROWS}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a CLIP, and two boards: `plain`, and `solved` that takes what is shared from it."""
    root = tmp_path_factory.mktemp("rows")
    write_dataset(
        root, {"train": 12, "validation": 4, "test": 20}, templates=["a {} picture", "one rather {} thing"]
    )
    write_tiny_clip(root / "clip")
    (root / "none").mkdir()
    write_manifest(root / "none", header_for(NO_CODEBOOK, {}))
    boards = {
        "plain": {**BASE, "rows": {"vq": QUANTIZER}, "runs": {"vq-0": RUNS["vq-0"]}},
        "solved": {
            "base": "../plain/params.yaml", "protocol": 1, "common": {"align": ALIGN}, "tasks": TASKS,
            "rows": ROWS, "runs": RUNS,
        },
    }  # fmt: skip
    for name, content in boards.items():
        (root / name).mkdir()
        (root / name / "params.yaml").write_text(json.dumps(content))
    return root


def run(root: Path, board: str, row: str, out: Path) -> Result:
    given = {
        "row": row, "seed": 0, "codebook": root / "none", "metrics": out, "cost": out.with_suffix(".cost"),
        "dataset": root / "dataset", "clip": root / "clip", "params": root / board / "params.yaml",
    }  # fmt: skip
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return CliRunner().invoke(stage.app, words)


def made(root: Path, board: str, row: str, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    done = run(root, board, row, out)
    assert done.exit_code == 0, done.output
    return json.loads(out.read_text()), json.loads(out.with_suffix(".cost").read_text())


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture(scope="module")
def whole(root: Path) -> Path:
    """A folder with the metrics and costs of three rows that nothing interrupted."""
    folder = root / "whole"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_SCRATCH", str(root / "scratch"))
        for board, row in (("plain", "vq"), ("solved", "vq"), ("solved", "vq+lg")):
            made(root, board, row, folder / f"{board}-{row}.json")
    return folder


def content(path: Path) -> dict[str, Any]:
    return parse_sealed(path.read_bytes(), path, required=False)[0]


def test_tasks_are_solved_from_an_aligned_row_by_fresh_heads_and_by_its_own(whole: Path) -> None:
    metrics, cost = (content(whole / f"solved-vq+lg.{end}") for end in ("json", "cost"))
    assert all(not isinstance(value, dict | list) for value in metrics.values())
    for head in ("fresh", "own"):
        own = {
            name.removeprefix("task.").replace(f".{head}.", "."): v
            for name, v in metrics.items()
            if f".{head}." in name
        }
        for count in (1, 3):
            part = f"masked_words.masked_{count}"
            low, mean, high = (own[f"{part}.recall{end}"] for end in ("_low", "", "_high"))
            assert 0 <= low <= mean <= high <= 1
            assert {f"{part}.{name}" for name in ("other_image", "commonest", "chance")} <= set(own)
        for direction in ("image_to_text", "text_to_image"):
            part = f"retrieval.{direction}"
            ranks = [own[f"{part}.r{rank}"] for rank in (1, 5, 10)]
            assert ranks == sorted(ranks)
            assert 0 < own[f"{part}.chance_r1"] < own[f"{part}.chance_r5"] <= 1
        low, mean, high = (own[f"relations.similarity.raw.mse{end}"] for end in ("_low", "", "_high"))
        assert low <= mean <= high
        assert own["relations.similarity.constant"] >= 0
    for kind in KINDS:
        assert metrics[f"task.{kind}.training.num_steps"] == metrics["num_steps"] == 4
        assert metrics[f"task.{kind}.protocol.num_images"] == metrics["num_images"] == 20
        assert metrics[f"task.{kind}.measured.images.digest"] == metrics["measured.images.digest"]
    assert {run: sorted(record) for run, record in records(flatten(metrics)).items()} == {
        "": ["images", "protocol"], **{f"task.{kind}": ["images", "protocol"] for kind in KINDS},
    }  # fmt: skip
    assert cost["task_cpu_seconds"] > 0
    assert cost["parameters.aligner"] > 0
    assert (
        cost["training_memory_bytes"] is None
        or 0 <= cost["training_memory_bytes"] < cost["peak_memory_bytes"]
    )


def test_tasks_add_to_a_row_and_change_nothing_of_it(whole: Path) -> None:
    alone, solved = content(whole / "plain-vq.json"), content(whole / "solved-vq.json")
    assert not any("task" in name or "align" in name for name in alone)
    without = {name: value for name, value in solved.items() if not name.startswith("task.")}
    assert without == {**alone, "given": solved["given"], "code": solved["code"]}
    assert alone["given"] != solved["given"]
    assert alone["code"] != solved["code"], "the code of tasks is that of a row with tasks"
    assert alone["code_shared"] == solved["code_shared"]
    assert not any(".own." in name for name in solved)
    assert "task.masked_words.fresh.masked_1.recall" in solved
    cheap, dear = content(whole / "plain-vq.cost"), content(whole / "solved-vq.cost")
    assert set(dear) - set(cheap) == {"task_cpu_seconds"}


def test_a_row_that_is_killed_in_a_task_ends_with_the_same_bytes(
    root: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, steps = TrainCaptions.batch, list[int]()

    def killed(self: TrainCaptions, rows: Any, step: int = 0, share: slice = slice(None)) -> TextBatch:
        steps.append(step)
        if steps.count(3) == 2:  # in the second task
            raise KeyboardInterrupt
        return batch(self, rows, step, share)

    out = tmp_path / "again.json"
    with monkeypatch.context() as patch:
        patch.setattr(TrainCaptions, "batch", killed)
        assert run(root, "solved", "vq+lg", out).exit_code != 0
    assert steps.count(3) == 2
    assert not out.exists()
    left = {path.parent.name for path in (tmp_path / "scratch").rglob("checkpoint.safetensors")}
    assert {"task-masked_words", "task-retrieval"} <= left
    assert len(left) == 3
    _, cost = made(root, "solved", "vq+lg", out)
    assert out.read_bytes() == (whole / "solved-vq+lg.json").read_bytes()
    assert cost["num_steps"] == 4, "the cost is that of the process that trained it"
    assert cost["cpu_seconds_per_step"] > 0
    assert not list((tmp_path / "scratch/row").iterdir())


def test_tasks_are_part_of_a_rows_params_and_the_base_is_too(root: Path, whole: Path, tmp_path: Path) -> None:
    def missing(board: Path, name: str = "solved") -> list[str]:
        options = ["--row", "vq", "--seed", "0", "--metrics", str(whole / f"{name}-vq.json")]
        inputs = ["--dataset", root / "dataset", "--clip", root / "clip", "--codebook", root / "none"]
        return list(
            missing_rows(board, {"vq-0": ["python", "-m", "stages.row", *options, *map(str, inputs)]})
        )

    for name in ("plain", "solved"):
        (tmp_path / name).mkdir()
        assert missing(root / name, name) == []
    plain = (root / "plain/params.yaml").read_text()
    own = json.loads((root / "solved/params.yaml").read_text())
    for board, changed, stale in (
        (own, {}, []),
        ({**own, "tasks": {**TASKS, "num_bootstrap": 200}}, {}, ["vq-0"]),
        ({**own, "rows": {**ROWS, "vq+lg": {"align": None}}}, {}, []),
        (own, {"evaluate": {**EVALUATE, "num_bootstrap": 200}}, ["vq-0"]),
    ):
        for name, content in (("plain", {**json.loads(plain), **changed}), ("solved", board)):
            (tmp_path / name / "params.yaml").write_text(json.dumps(content))
        assert missing(tmp_path / "solved") == stale
    words = {**TASKS["masked_words"], "masked_counts": [3, 1]}
    wrong = {**own, "tasks": {**TASKS, "masked_words": words}}
    (tmp_path / "solved/params.yaml").write_text(json.dumps(wrong))
    with pytest.raises(ParamsError, match="do not increase"):
        missing(tmp_path / "solved")


def test_long_captions_and_cells_above_the_grid_are_refused_before_training(
    root: Path, tmp_path: Path
) -> None:
    own = json.loads((root / "solved/params.yaml").read_text())
    own = merged(
        own, {"base": str(root / "plain/params.yaml"), "tasks": {"masked_words": {"head": {"max_tokens": 9}}}}
    )
    (tmp_path / "params.yaml").write_text(json.dumps(own))
    words = [
        "--row",
        "vq",
        "--seed",
        "0",
        "--params",
        str(tmp_path / "params.yaml"),
        "--metrics",
        "m",
        "--cost",
        "c",
    ]
    inputs = ["--codebook", root / "none", "--dataset", root / "dataset", "--clip", root / "clip"]
    done = CliRunner().invoke(stage.app, [*words, *map(str, inputs)])
    assert done.exit_code == 2, done.output
    assert "9 tokens, and tiny:fresh" in " ".join(done.output.split())
    assert not list((tmp_path / "scratch").rglob("*.safetensors"))
    probing = {**json.loads((root / "plain/params.yaml").read_text()), "probe": {"cells": 5}}
    (tmp_path / "params.yaml").write_text(json.dumps(probing))
    done = CliRunner().invoke(stage.app, [*words, *map(str, inputs)])
    assert done.exit_code == 2, done.output
    assert "error: probe.cells is more than the tokens of a side" in done.output
    assert not list((tmp_path / "scratch").rglob("*.safetensors"))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_of_what_the_training_took_is_not_read(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path, spent = tmp_path / "spent.json", TrainingSpent(4, 1.5, 2.5, 1 << 30, None)
    assert _kept_spent(path) is None
    publish_sealed(path, asdict(spent))
    assert _kept_spent(path) == spent
    assert capsys.readouterr().err == ""
    damage(path)
    assert _kept_spent(path) is None
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.endswith("; what the training of this row cost is not known\n")
