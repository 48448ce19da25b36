"""The part of the page on grounding: its rows and references, and the boxes that it draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.small_answers import read_all, write_all
from tests.small_tasks import COMMON
from tests.tiny import TOKENIZER
from vqpipe.params.base import validate
from vqpipe.report.about_grounding import RULES, section
from vqpipe.report.blocks import Absent, Examples, Table
from vqpipe.report.inputs import ReportParams
from vqpipe.report.task_pairs import TaskRun, name_of
from vqpipe.tasks import TASKS
from vqpipe.tasks.solve import solve_task
from vqpipe.tasks.task import task_entry

PARAMS: dict[str, Any] = {
    "title": "page", "max_picture_pixels": 64, "num_dataset_images": 1, "num_reconstructions": 1, "num_pairs": 1,
    "num_edges": 1, "num_code_words": 1, "num_samples": 1, "num_task_examples": 2, "error_levels": 64.0,
}  # fmt: skip
TRAINING = {**TOKENIZER["training"], "num_steps": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[TaskRun]:
    root = write_all(tmp_path_factory.mktemp("page"), 12)
    dataset, clip, tokenizer = read_all(root)
    found = []
    for name, seen in (("vq-none", "none"), ("vq", "codes"), ("lc", "codes")):
        own = {"kind": "grounding", "input": seen, "tokenizer": name.split("-")[0], "training": TRAINING}
        config = validate(task_entry(COMMON, own), "task", TASKS.params())
        (root / f"scratch-{name}").mkdir()
        solved = solve_task(
            config, tokenizer, None, dataset, clip,
            scratch=root / f"scratch-{name}", curves=None, device=torch.device("cpu"), title=name,
        )  # fmt: skip
        folder = solved.write(root / name)
        found.append(TaskRun(name, folder, solved.metrics, {}, config, name_of(config, solved.metrics)))
    return found


def params(**changes: Any) -> ReportParams:
    return validate({**PARAMS, **changes}, "report", ReportParams)


def test_tokenizers_come_before_inputs_and_rules(runs: list[TaskRun]) -> None:
    (table,) = [block for block in section(runs, params()).blocks if isinstance(block, Table)]
    assert [row[0].text for row in table.rows] == ["vq", "lc", "no image", *RULES.values()]
    assert table.quiet == frozenset(range(2, 7))
    assert all(len(row) == len(table.columns) for row in table.rows)
    metrics = runs[1].metrics.fresh
    assert table.rows[0][1].text == f"{100 * metrics.accuracy.mean:.1f}"
    names = [column.name for column in table.columns]
    assert names == ["input", "Acc@0.5", "change", "mean IoU", "other codes", "gain", "two alike"]
    assert table.rows[-1][3].text == f"{100 * metrics.mean_box.iou.mean:.1f}"
    assert table.rows[0][4].text == f"{100 * metrics.other_image.accuracy.mean:.1f}"
    assert table.rows[0][6].text == f"{100 * metrics.alike.accuracy.mean:.1f}"
    gain = runs[0].metrics.fresh
    assert gain.accuracy == gain.other_image.accuracy
    assert table.rows[2][5].text == "0.0"
    assert "12 test images" in table.note


def test_each_example_has_the_boxes_of_each_run(runs: list[TaskRun]) -> None:
    (examples,) = [block for block in section(runs, params()).blocks if isinstance(block, Examples)]
    assert len(examples.items) == 2
    for item in examples.items:
        (answers,) = item.rows
        assert [answer.title for answer in answers] == ["no image", "vq", "lc"]
        for answer in answers:
            assert answer.drawing is not None
            assert answer.drawing.count("<rect") == 4
            assert answer.drawing.count("stroke-dasharray") == 1
            assert answer.note.startswith("IoU ")
    assert not [
        block for block in section(runs, params(num_task_examples=0)).blocks if isinstance(block, Examples)
    ]


def test_without_pairs_the_part_says_so() -> None:
    (block,) = section([], params()).blocks
    assert isinstance(block, Absent)
