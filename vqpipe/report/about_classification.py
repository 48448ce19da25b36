"""Classes from codes: accuracy by tokenizer next to its floors and references, confusions, and single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter

import numpy as np

from vqpipe.artifacts.specs.task import CLASSIFICATION_PICTURES
from vqpipe.report.about_health import similarity_map
from vqpipe.report.blocks import (
    Absent,
    Answer,
    Block,
    Cell,
    Chart,
    Charts,
    Column,
    Examples,
    Line,
    Section,
    Table,
    Terms,
)
from vqpipe.report.inputs import ReportParams
from vqpipe.report.names import CHANGE, HIGHER, MEASURES, cell, column, number
from vqpipe.report.task_inputs import Row, add_changes, by_name, examples, references
from vqpipe.report.task_pairs import TaskRun, parted
from vqpipe.tasks.classification import ClassificationMetrics, ClassificationProtocol

MOST_CLASSES = 40
"""Classes of a confusion matrix that is drawn."""
TITLE = "Classes from codes"


def section(runs: Sequence[TaskRun], params: ReportParams) -> Section:
    """The part of the page.

    Args:
        runs: of the task `classification`.

    Raises:
        ArtifactError: a table that is damaged or of another version.
    """
    codes, others = parted(runs)
    blocks: list[Block] = []
    if not runs:
        blocks = [Absent("Classification was not measured: no pair of this task. Run: dvc repro task")]
    else:
        blocks = [*_numbers(codes, others), *_confusions(codes)]
        items = examples(codes, CLASSIFICATION_PICTURES, params, _about, _answer)
        if items:
            note = "Test images drawn at random: the likeliest classes with their probabilities."
            blocks.append(Examples("Images and their classes", items, note))
    return Section("task-classification", "Classification", blocks)


def _metrics(run: TaskRun) -> ClassificationMetrics:
    assert isinstance(run.metrics.fresh, ClassificationMetrics)
    return run.metrics.fresh


def _numbers(codes: Sequence[TaskRun], others: Sequence[TaskRun]) -> list[Block]:
    runs = [*codes, *others]
    several = any(_metrics(run).top5 is not None for run in runs)
    rows = []
    for run in runs:
        found = _metrics(run)
        rows.append([
            Cell(run.label), cell("class_top1", found.top1),
            *([cell("class_top5", found.top5)] if several else []), cell("class_other_image", found.other_image),
        ])  # fmt: skip
    measured = [(run, "fresh", _metrics(run)) for run in runs]
    for name, top1, top5 in (
        ("most frequent class of the training images", "majority", "majority5"),
        ("chance: a class drawn evenly", "chance", "chance5"),
    ):
        own = [("class_top1", attrgetter(top1)), *([("class_top5", attrgetter(top5))] if several else [])]
        rows += [row[:1] + row[2:] for row in references(measured, name, own, len(own) + 1)]
    shown = ["class_top1", *(["class_top5"] if several else []), "class_other_image"]
    columns = [Column("input", numeric=False), *map(column, shown)]
    add_changes(columns, rows, runs)
    note = (
        f"{by_name([(run.label, _counts(run)) for run in runs], ' ')} A vision transformer is trained on each "
        f"input for the same steps. {CHANGE} {HIGHER} higher is better."
    )  # fmt: skip
    terms = [(MEASURES[name].label, MEASURES[name].about) for name in shown]
    table = Table(TITLE, columns, rows, note, frozenset(range(len(codes), len(rows))))
    return [table, Terms("What each measure of classes means", terms)]


def _counts(run: TaskRun) -> str:
    protocol = run.metrics.protocol
    assert isinstance(protocol, ClassificationProtocol)
    images, classes = number(protocol.num_images), number(_metrics(run).num_classes)
    left = protocol.num_without_class
    without = f" {number(left)} test images have no class and are left out." if left else ""
    return f"n = {images} test images of {classes} classes.{without}"


def _confusions(runs: Sequence[TaskRun]) -> list[Block]:
    charts = []
    for run in runs:
        table = _metrics(run).confusion
        names = list(
            dict.fromkeys([*_metrics(run).per_class, *(name for row in table.values() for name in row)])
        )
        if len(names) > MOST_CLASSES:
            return [Absent(f"Confusions are not drawn: there are more than {MOST_CLASSES} classes.")]
        alt = f"confusions of classes from the codes of {run.label}"
        charts.append(Chart(similarity_map(shares(table, names), names, alt), run.label))
    note = (
        "Rows: the class of the test images; columns: the class that the head predicts; the stronger the colour, the "
        "larger the share of the row. Colour off the diagonal is an error."
    )
    return [Charts("Confusion of classes", charts, note=note)] if charts else []


def shares(table: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> np.ndarray:
    """Counts by class and prediction as shares of each class; a class without images has zeros."""
    counts = np.array(
        [[table.get(row, {}).get(name, 0) for name in names] for row in names], dtype=np.float64
    )
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _about(row: Row) -> tuple[str, str]:
    return f"class: {row['label']}", ""


def _answer(row: Row, name: str) -> Answer:
    lines = [
        Line(label, f"{number(100 * chance, 0)} %", right if at == 0 or right else None)
        for at, (label, chance, right) in enumerate(
            zip(row["predictions"], row["chances"], row["right"], strict=True)
        )
    ]
    return Answer(name, lines)
