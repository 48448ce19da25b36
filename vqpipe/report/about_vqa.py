"""Answers from codes: accuracy and WUPS by tokenizer and kind of question, next to floors, and examples."""

from __future__ import annotations

from collections.abc import Sequence

from vqpipe.artifacts.specs.task_vqa import VQA_PICTURES
from vqpipe.report.blocks import Absent, Answer, Block, Cell, Column, Examples, Line, Section, Table
from vqpipe.report.inputs import ReportParams
from vqpipe.report.names import HIGHER, cell, column, counted, number
from vqpipe.report.task_inputs import Row, difference, examples
from vqpipe.report.task_pairs import TaskRun, parted
from vqpipe.tasks.vqa import AnswerMetrics, VqaMetrics, VqaProtocol


def section(runs: Sequence[TaskRun], params: ReportParams) -> Section:
    """The part of the page.

    Args:
        runs: of the task `vqa`.

    Raises:
        ArtifactError: a table that is damaged or of another version.
    """
    codes, others = parted(runs)
    blocks: list[Block]
    if not runs:
        blocks = [Absent("Question answering was not measured: no pair of this task. Run: dvc repro task")]
    else:
        blocks = [_numbers(codes, others), _kinds(codes, others)]
        items = examples(codes, VQA_PICTURES, params, _about, _answer)
        if items:
            note = (
                "Test images drawn at random. For each question the likeliest answer with its probability, whether it "
                "is right, and the answer with the codes of another image."
            )
            blocks.append(Examples("Questions and answers", items, note))
    return Section("task-vqa", "Questions", blocks)


def _metrics(run: TaskRun) -> VqaMetrics:
    assert isinstance(run.metrics.fresh, VqaMetrics)
    return run.metrics.fresh


def _numbers(codes: Sequence[TaskRun], others: Sequence[TaskRun]) -> Table:
    runs = [*codes, *others]
    base = runs[0]
    rows = []
    for run in runs:
        found = _metrics(run)
        rows.append([
            Cell(run.label), cell("vqa_accuracy", found.accuracy),
            difference(run, base, "accuracy", "vqa_accuracy"), cell("wups_09", found.wups_09),
            cell("wups_00", found.wups_00), cell("vqa_other_image", found.other_image),
        ])  # fmt: skip
    first = _metrics(base)
    floors = (
        ("most frequent answer to the same text", first.majority_question, None, None),
        ("most frequent answer to its kind", first.majority_kind, None, None),
        ("most frequent answer", first.majority, first.majority_wups_09, first.majority_wups_00),
        ("chance: an answer drawn evenly", first.chance, None, None),
    )
    for name, accuracy, high, low in floors:
        partial = [
            Cell("") if value is None else cell(key, value)
            for key, value in (("wups_09", high), ("wups_00", low))
        ]
        rows.append([Cell(name), cell("vqa_accuracy", accuracy), Cell(""), *partial, Cell("")])
    columns = [
        Column("input", numeric=False), column("vqa_accuracy"), Column("change", f"points, from {base.label}"),
        column("wups_09"), column("wups_00"), column("vqa_other_image"),
    ]  # fmt: skip
    return Table("Answers from codes", columns, rows, _note(base), frozenset(range(len(codes), len(rows))))


def _note(run: TaskRun) -> str:
    protocol, found = run.metrics.protocol, _metrics(run)
    assert isinstance(protocol, VqaProtocol)
    note = (
        f"n = {counted(found.num_questions, 'question')} about {counted(protocol.num_images, 'test image')}, and "
        f"{counted(protocol.num_answers, 'answer')} to choose from; a transformer over input and question is trained "
        "on each input for the same steps. Change: question by question, with its 95 % bootstrap interval. "
        f"{HIGHER} higher is better."
    )  # fmt: skip
    for count, what in (
        (protocol.num_unknown, "have an answer that no head can give, and count as wrong"),
        (protocol.num_cut, "are cut, as they are too long"),
    ):
        if count:
            note += f" {counted(count, 'question')} {what}."
    return note


def _kinds(codes: Sequence[TaskRun], others: Sequence[TaskRun]) -> Table:
    runs = [*codes, *others]
    kinds = list(dict.fromkeys(kind for run in runs for kind in _metrics(run).kinds))
    rows = []
    for run in runs:
        own = [_metrics(run).kinds.get(kind) for kind in kinds]
        rows.append(
            [Cell(run.label), *(Cell("–") if part is None else _both(part) for part in own)],
        )
    first = _metrics(runs[0]).kinds
    for name, field in (
        ("most frequent answer to the same text", "majority_question"),
        ("most frequent answer to its kind", "majority_kind"),
    ):
        rows.append([Cell(name), *(cell("vqa_accuracy", getattr(first[kind], field)) for kind in kinds)])
    columns = [Column("input", numeric=False)]
    for kind in kinds:
        columns.append(Column(kind, f"%, n = {number(first[kind].num_questions)}", HIGHER))
    note = "Accuracy; small print is the accuracy with the codes of another image."
    return Table("Answers by kind of question", columns, rows, note, frozenset(range(len(codes), len(rows))))


def _both(part: AnswerMetrics) -> Cell:
    other = cell("vqa_accuracy", part.other_image.mean).text
    return Cell(cell("vqa_accuracy", part.accuracy.mean).text, f"other image: {other}")


def _about(row: Row) -> tuple[str, str]:
    asked = zip(row["questions"], row["answers"], strict=True)
    return "Asked about this image", "; ".join(f"{question} {answer}" for question, answer in asked)


def _answer(row: Row, name: str) -> Answer:
    columns = (row[key] for key in ("questions", "predictions", "chances", "right", "others"))
    lines = [
        Line(given, f"{number(100 * chance, 0)} %", right, f"other image: {other}", question.rstrip(" ?"))
        for question, given, chance, right, other in zip(*columns, strict=True)
    ]
    return Answer(name, lines)
