"""The boards of tasks: tokenizers are those of other boards, claims name what tasks measure, and verdicts follow."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest

from stages.dvcfile import read_stages
from vqpipe.alignment.text_sides import ClipTextParams
from vqpipe.artifacts.metrics import Metrics
from vqpipe.boards.board import SECTIONS, Board, load_board
from vqpipe.boards.claims import NOT_REPRODUCED, NOT_RUN, REPRODUCED, UNDECIDED, judge, read_claims
from vqpipe.boards.columns import COLUMNS, column, head
from vqpipe.boards.results import Results
from vqpipe.errors import ParamsError
from vqpipe.metrics.measured import Interval
from vqpipe.params.base import load_params, merged, read_yaml, validate
from vqpipe.report.names import MEASURES
from vqpipe.tasks import TASKS
from vqpipe.tasks.inputs import Input
from vqpipe.tasks.task import task_entry, tasks_of
from vqpipe.training.clip import ClipParams

FOLDER = Path(__file__).parents[2] / "boards"
BOARDS = ("tasks", "tasks-text", "tasks-inputs")
KINDS = {"classification", "captioning", "vqa", "grounding"}
EACH = pytest.mark.parametrize("name", BOARDS)
ACCURACY = "task.grounding.fresh.accuracy"


def load(name: str) -> Board:
    return load_board(FOLDER / name / "params.yaml", Board)


@EACH
def test_tokenizers_are_those_of_other_boards(name: str) -> None:
    board, scenes, language = load(name), load("scenes"), load("language")
    for row in board.rows:
        own, of_clip = board.tokenizer(row, 1), row.removesuffix("-minilm")
        other = language if of_clip.endswith("+lg") else scenes
        if row != of_clip:
            assert own.align is not None
            assert own.align.text.kind == "sentence_transformer"
            own = own.model_copy(update={"align": own.align.model_copy(update={"text": ClipTextParams()})})
        assert own == other.tokenizer(of_clip, 1)


def test_pairs_of_the_papers_have_three_seeds() -> None:
    board = load("tasks")
    seeds = {row: {run.seed for run in board.runs.values() if run.row == row} for row in board.rows}
    rows = {
        row for table in read_claims(FOLDER / "tasks").tables for claim in table.claims for row in claim.rows
    }
    assert {row for row, found in seeds.items() if found == {0, 1, 2}} >= rows
    assert {row for row in board.rows if seeds[row] != {0, 1, 2}} == {"fsq"}


def test_the_boards_solve_the_same_tasks_in_the_same_way() -> None:
    one, text, inputs = (load(name).tasks_of("lc" if name == "tasks-inputs" else "vq", 2) for name in BOARDS)
    assert one == text
    assert set(one) == KINDS
    assert all(task.input == "codes" and task.seed == 2 for task in one.values())
    assert set(inputs) == KINDS | {
        f"{kind}-{seen}" for kind in KINDS for seen in get_args(Input) if seen != "codes"
    }
    for name, task in inputs.items():
        kind, _, seen = name.partition("-")
        changes = {"tokenizer": "lc", "input": seen or "codes", "patches": task.patches}
        assert task == one[kind].model_copy(update=changes)


def test_further_tasks_are_checked() -> None:
    tasks = load("tasks-inputs").tasks
    assert tasks is not None
    for further, message in (
        ({"a": 3}, "further"),
        ({"a": {"kind": "vqa", "inputs": "none"}}, "did you mean input"),
    ):
        with pytest.raises(ParamsError, match=message):
            tasks_of({**tasks, "further": further}, "a board", tokenizer="lc", seed=0)


def test_the_longer_fitted_clip_differs_in_its_steps_alone() -> None:
    own, main = (
        validate(read_yaml(path)["clip"], "clip", ClipParams)
        for path in (FOLDER / "tasks-text/params.yaml", FOLDER.parent / "params.yaml")
    )
    assert own.fit is not None
    assert main.fit is not None
    steps, base = own.fit.training.num_steps, main.fit.training
    assert steps == 4 * base.num_steps
    training = base.model_copy(
        update={"num_steps": steps, "checkpoint_every": own.fit.training.checkpoint_every}
    )
    assert own == main.model_copy(update={"fit": main.fit.model_copy(update={"training": training})})


@EACH
def test_claims_and_tables_name_rows_of_the_board_and_numbers_of_the_tasks(name: str) -> None:
    board = load(name)
    for table in read_claims(FOLDER / name).tables:
        assert {row for _, row in table.rows} <= set(board.rows)
        numbers = [("", metric) for metric in table.metrics]
        for row, metric in [*numbers, *(own for claim in table.claims for own in claim.numbers())]:
            assert row in {"", *board.rows}
            assert is_labelled(metric), metric
            assert not metric.startswith("task.") or is_number(metric), metric
        assert len({head(metric) for metric in table.metrics}) == len(table.metrics)


def is_labelled(metric: str) -> bool:
    """Whether a metric has a label of its own; the label of one that is not listed is its whole name."""
    if metric.startswith("task."):
        return "task." not in column(metric).label
    return metric in COLUMNS or metric in MEASURES


def is_number(metric: str) -> bool:
    """Whether the name of a task's metric leads to a number or an interval in the model of the task's metrics."""
    _, kind, *path = metric.split(".")
    found: Any = TASKS[kind.partition("-")[0]].Metrics
    for name in path:
        if found is Interval or not issubclass(found, Metrics) or name not in found.model_fields:
            return False
        found = found.model_fields[name].annotation
        found = next((one for one in get_args(found) if one is not NoneType), found)
    return found in {Interval, int, float}


@pytest.mark.parametrize(
    ("metric", "labelled", "number"),
    [
        ("task.vqa.fresh.accuracy", True, True),
        ("task.vqa-none.fresh.accuracy", True, True),
        ("task.grounding.fresh.alike.iou", True, True),
        ("task.grounding.fresh.alike", False, False),
        ("task.vqa.fresh.accuracy.mean", False, False),
        ("task.vqa-none.fresh.accuracies", False, False),
        ("task.captioning.fresh.absent", False, False),
        ("task.classification.fresh.num_classes", False, True),
    ],
)
def test_names_that_lead_nowhere_are_found(metric: str, labelled: bool, number: bool) -> None:
    assert (is_labelled(metric), is_number(metric)) == (labelled, number)
    assert is_labelled("psnr")
    assert not is_labelled("a_name")


def test_verdicts_follow_the_numbers() -> None:
    board, table = load("tasks"), read_claims(FOLDER / "tasks").tables[1]
    claim = table.claims[0]
    assert claim.rows == ("vq", "vq+lg")

    def results(plain: float, aligned: float) -> Results:
        rows = {
            row: {seed: {ACCURACY: value + seed / 1000, "protocol": board.protocol} for seed in range(3)}
            for row, value in (("vq", plain), ("vq+lg", aligned))
        }
        return Results(board, rows, {})

    assert judge(claim, Results(board, {}, {})).outcome == NOT_RUN
    assert judge(claim, results(0.3, 0.4)).outcome == REPRODUCED
    assert judge(claim, results(0.4, 0.3)).outcome == NOT_REPRODUCED
    assert judge(claim, results(0.3, 0.3)).outcome == UNDECIDED


@pytest.mark.parametrize("folder", sorted(FOLDER.glob("*/dvc.yaml")), ids=lambda path: path.parent.name)
def test_every_row_depends_on_all_sections_that_its_board_reads(folder: Path) -> None:
    params = read_yaml(folder)["stages"]["row"]["do"]["params"]
    found = {name for file in params for sections in file.values() for name in sections}
    assert {*SECTIONS, "probe"} - {"rows", "runs"} <= found
    assert {"rows.${item.row}", "runs.${key}"} <= found


@EACH
def test_every_row_depends_on_its_params_and_inputs(name: str) -> None:
    stages = read_yaml(FOLDER / name / "dvc.yaml")["stages"]
    row = stages["row"]["do"]
    sections = merged(*row["params"][:2])[f"boards/{name}/params.yaml"]
    assert {"protocol", "common", "tasks", "rows.${item.row}", "runs.${key}"} == set(sections)
    words = row["cmd"].split()
    given = {words[words.index(option) + 1] for option in ("--dataset", "--clip", "--codebook")}
    assert given < set(row["deps"])
    if "clip" in stages:
        assert set(stages["clip"]["outs"][0]) == given & {f"artifacts/boards/{name}/clip"}


def test_words_of_the_longer_fitted_clip_are_those_of_the_main_pipeline() -> None:
    """A codebook of another CLIP than that of the losses is refused."""
    text, folder = read_yaml(FOLDER / "tasks-text/params.yaml"), "boards/tasks-text"
    assert text["graphs"] == {"words": read_yaml(FOLDER.parent / "params.yaml")["graph"]}
    stages = read_stages(FOLDER / "tasks-text")
    graph, rows = stages["graph@words"], load("tasks-text").runs
    assert f"artifacts/{folder}/clip" in graph.deps
    assert {run.codebook for run in rows.values() if "vqct" in run.row} == {f"{folder}/words"}
    assert f"artifacts/{folder}/words" in graph.outs


@EACH
def test_the_heads_are_those_of_the_main_pipeline(name: str) -> None:
    """Sizes and schedules of one file are not forgotten in another: all but the pictures and the log agree."""
    own, main = (
        load_params(FOLDER / path, section, dict[str, Any])
        for path, section in ((f"{name}/params.yaml", "tasks"), ("../params.yaml", "task.common"))
    )
    own.pop("further", None)
    for kind in sorted(KINDS):
        both = [
            validate(task_entry(part, {"tokenizer": "vq", "kind": kind}), kind, TASKS.params()).model_dump(
                exclude={"num_pictures", "num_predictions", "patches"}
            )
            for part in (own, main)
        ]
        for found in both:
            for key in ("log_every", "checkpoint_every"):
                del found["training"][key]
        assert both[0] == both[1], kind
