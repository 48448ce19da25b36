"""Answers from codes: accuracy and WUPS by tokenizer and kind of question, next to floors, and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter

from vqpipe.artifacts.specs.task import VQA_PICTURES
from vqpipe.errors import counted
from vqpipe.report.blocks import Absent, Answer, Block, Cell, Column, Examples, Line, Section, Table, Terms
from vqpipe.report.inputs import ReportParams
from vqpipe.report.names import CHANGE, HIGHER, MEASURES, cell, column, number
from vqpipe.report.task_inputs import Row, add_changes, by_name, examples, references
from vqpipe.report.task_pairs import TaskRun, parted
from vqpipe.tasks.vqa import AnswerMetrics, VqaMetrics, VqaProtocol

SHOWN = ("vqa_accuracy", "wups_09", "wups_00", "vqa_other_image")
"""The measures of the table."""
FLOORS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    (
        "most frequent answer to the same text",
        "majority_question",
        {"wups_09": "majority_question_wups_09", "wups_00": "majority_question_wups_00"},
    ),
    ("most frequent answer to its kind", "majority_kind", {}),
    ("most frequent answer", "majority", {"wups_09": "majority_wups_09", "wups_00": "majority_wups_00"}),
    ("chance: an answer drawn evenly", "chance", {}),
)
"""The answers of rules: label, field of their accuracy, and those of other measures; the first two are by kind too."""


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
        terms = [(MEASURES[name].label, MEASURES[name].about) for name in SHOWN]
        blocks = [
            _numbers(codes, others), _kinds(codes, others), Terms("What each measure of answers means", terms),
        ]  # fmt: skip
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
    rows = []
    for run in runs:
        found = _metrics(run)
        rows.append([
            Cell(run.label), cell("vqa_accuracy", found.accuracy), cell("wups_09", found.wups_09),
            cell("wups_00", found.wups_00), cell("vqa_other_image", found.other_image),
        ])  # fmt: skip
    found_by_run = [(run, "fresh", _metrics(run)) for run in runs]
    for name, field, further in FLOORS:
        own = [("vqa_accuracy", attrgetter(field)), *((key, attrgetter(at)) for key, at in further.items())]
        rows += [row[:1] + row[2:] for row in references(found_by_run, name, own, 4)]
    columns = [Column("input", numeric=False), *map(column, SHOWN)]
    add_changes(columns, rows, runs)
    note = (
        f"{by_name([(run.label, _counts(run)) for run in runs], ' ')} A transformer over input and question is trained "
        f"on each input for the same steps. {CHANGE} {HIGHER} higher is better."
    )  # fmt: skip
    return Table("Answers from codes", columns, rows, note, frozenset(range(len(codes), len(rows))))


def _counts(run: TaskRun) -> str:
    protocol, found = run.metrics.protocol, _metrics(run)
    assert isinstance(protocol, VqaProtocol)
    counts = (
        f"n = {counted(found.num_questions, 'question')} about {counted(protocol.num_images, 'test image')}, and "
        f"{counted(protocol.num_answers, 'answer')} to choose from."
    )
    for count, what in (
        (protocol.num_unknown, "have an answer that no head can give, and count as wrong"),
        (protocol.num_cut, "are cut, as they are too long"),
        (protocol.num_unknown_words, "have a word that no training question has"),
        (protocol.num_without_words, "have no word"),
    ):
        if count:
            counts += f" {counted(count, 'question')} {what}."
    return counts


def _kinds(codes: Sequence[TaskRun], others: Sequence[TaskRun]) -> Table:
    runs = [*codes, *others]
    kinds = list(dict.fromkeys(kind for run in runs for kind in _metrics(run).kinds))
    rows = []
    for run in runs:
        own = [_metrics(run).kinds.get(kind) for kind in kinds]
        rows.append(
            [Cell(run.label), *(Cell("–") if part is None else _both(part) for part in own)],
        )
    measured = [(run, "fresh", _metrics(run)) for run in runs]
    for name, field, _ in FLOORS[:2]:
        own_floor = [("vqa_accuracy", partial(_of_kind, kind, field)) for kind in kinds]
        for label, _, *shares in references(measured, name, own_floor, len(kinds)):
            rows.append([label, *(share if share.text else Cell("–") for share in shares)])
    columns = [Column("input", numeric=False)]
    for kind in kinds:
        counts = dict.fromkeys(
            number(_metrics(run).kinds[kind].num_questions) for run in runs if kind in _metrics(run).kinds
        )
        columns.append(Column(kind, f"%, n = {' or '.join(counts)}", HIGHER))
    note = "Accuracy; small print is the accuracy with the codes of another image."
    return Table("Answers by kind of question", columns, rows, note, frozenset(range(len(codes), len(rows))))


def _of_kind(kind: str, field: str, metrics: VqaMetrics) -> float | None:
    """A floor of the questions of a kind; None where the run has none of it."""
    found = metrics.kinds.get(kind)
    return None if found is None else getattr(found, field)


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
