"""Classes from codes: accuracy by tokenizer next to its floors and ceilings, confusions, and single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vqpipe.artifacts.specs.task_classification import CLASSIFICATION_PICTURES
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
)
from vqpipe.report.inputs import ReportParams
from vqpipe.report.names import HIGHER, cell, column, number
from vqpipe.report.task_inputs import Row, difference, examples
from vqpipe.report.task_pairs import TaskRun, parted
from vqpipe.tasks.classification import ClassificationMetrics

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
        blocks = [_numbers(codes, others), *_confusions(codes)]
        items = examples(codes, CLASSIFICATION_PICTURES, params, _about, _answer)
        if items:
            note = "Test images drawn at random: the likeliest classes with their probabilities."
            blocks.append(Examples("Images and their classes", items, note))
    return Section("task-classification", "Classification", blocks)


def _metrics(run: TaskRun) -> ClassificationMetrics:
    assert isinstance(run.metrics.fresh, ClassificationMetrics)
    return run.metrics.fresh


def _numbers(codes: Sequence[TaskRun], others: Sequence[TaskRun]) -> Table:
    runs = [*codes, *others]
    several = any(_metrics(run).top5 is not None for run in runs)
    base = runs[0]
    rows = []
    for run in runs:
        found = _metrics(run)
        rows.append([
            Cell(run.label), cell("class_top1", found.top1), difference(run, base, "top1", "class_top1"),
            *([cell("class_top5", found.top5)] if several else []), cell("class_other_image", found.other_image),
        ])  # fmt: skip
    first = _metrics(base)
    for name, top1, top5 in (
        ("most frequent class of the training images", first.majority, first.majority5),
        ("chance: a class drawn evenly", first.chance, first.chance5),
    ):
        rows.append([
            Cell(name), cell("class_top1", top1), Cell(""), *([cell("class_top5", top5)] if several else []),
            Cell(""),
        ])  # fmt: skip
    columns = [
        Column("input", numeric=False), column("class_top1"), Column("change", f"points, from {base.label}"),
        *([column("class_top5")] if several else []), column("class_other_image"),
    ]  # fmt: skip
    protocol = base.metrics.protocol
    note = (
        f"n = {number(protocol.num_images)} test images of {number(first.num_classes)} classes; a vision transformer "
        "is trained on each input for the same steps. Change: image by image, with its 95 % bootstrap interval; it "
        f"does not contain what another training would change. {HIGHER} higher is better."
    )  # fmt: skip
    left = getattr(protocol, "num_without_class", 0)
    if left:
        note += f" {number(left)} test images have no class and are left out."
    return Table(TITLE, columns, rows, note, frozenset(range(len(codes), len(rows))))


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
