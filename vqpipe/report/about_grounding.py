"""The task `grounding` on the page: boxes from codes and expressions, compared with inputs and rules, and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from vqpipe.artifacts.specs.task import GROUNDING_PICTURES
from vqpipe.errors import counted
from vqpipe.report.blocks import (
    Absent,
    Answer,
    Block,
    Cell,
    Column,
    Example,
    Examples,
    Picture,
    Section,
    Table,
    Text,
)
from vqpipe.report.charts import close_svg, open_svg
from vqpipe.report.inputs import ReportParams
from vqpipe.report.names import CHANGE, HIGHER, cell, column, number
from vqpipe.report.task_inputs import add_changes, by_name, picture_rows, pictured, references, side_by_side
from vqpipe.report.task_pairs import TaskRun, parted
from vqpipe.tasks.grounding import GroundingMetrics, GroundingProtocol

SIDE = 176
"""Side of a drawing in pixels."""
LINES = {"box": ("#ffffff", ""), "predicted": ("#ffb000", ' stroke-dasharray="7 4"')}
"""Colour and dashes of the true box and of the one found; they differ in both, for readers who see no colour."""
RULES = {
    "any_object": "any object of the image, with its exact box", "name_box": "mean training box of the object's name",
    "best_box": "best constant box, by each measure", "mean_box": "mean training box",
}  # fmt: skip
"""The boxes of rules, by their name in the metrics."""


def section(runs: Sequence[TaskRun], params: ReportParams) -> Section:
    """The part `Grounding`.

    Raises:
        ArtifactError: a table of pictures that is damaged or of another version.
    """
    title = "Grounding"
    if not runs:
        return Section("task-grounding", title, [Absent("Grounding was not measured: no pair of this task.")])
    return Section("task-grounding", title, [*_numbers(runs), *_pictures(runs, params)])


def _numbers(runs: Sequence[TaskRun]) -> list[Block]:
    measured = [run for run in runs if isinstance(run.metrics.fresh, GroundingMetrics)]
    codes, others = parted(measured)
    ordered = [*codes, *others]
    found = [(run, "fresh", run.metrics.fresh) for run in ordered]
    blind = next((run for run in ordered if run.config.input == "none"), None)
    rows = []
    for run, head, part in found:
        alone = (
            blind.values.get((head, "accuracy")) if blind else run.values.get((head, "other_image.accuracy"))
        )
        gain = run.difference(run.values.get((head, "accuracy")), alone)
        rows.append([
            Cell(run.label), cell("box_accuracy", part.accuracy), cell("box_iou", part.iou),
            cell("box_other_image", part.other_image.accuracy), cell("box_gain", gain),
            cell("box_alike", part.alike and part.alike.accuracy),
        ])  # fmt: skip
    for name, words in RULES.items():
        own = [("box_accuracy", _of(name, "accuracy")), ("box_iou", _of(name, "iou"))]
        rows += [row[:1] + row[2:] for row in references(found, words, own, 5)]
    names = ("box_accuracy", "box_iou", "box_other_image", "box_gain", "box_alike")
    counts = by_name([(run.label, _counts(run)) for run in measured], " ")
    note = (
        f"{counts} Rows in italics are references: the same head and steps on another input, then rules without "
        f"a head. Small print: 95 % bootstrap interval over the expressions. {CHANGE} {HIGHER} higher is better."
    )
    lead = (
        "One box for each expression, from the codes and the words (TransVG's head, LG-VQ's setting). A number is due "
        "to the codes as far as it is above that of the head without an image: the gain."
    )
    columns = [Column("input", numeric=False), *map(column, names)]
    add_changes(columns, rows, ordered)
    quiet = frozenset(range(len(codes), len(rows)))
    return [Text(lead), Table("Boxes of expressions", columns, rows, note, quiet)]


def _counts(run: TaskRun) -> str:
    own = run.metrics.protocol
    assert isinstance(own, GroundingProtocol)
    left = ", ".join(f"{number(count)} {reason}" for reason, count in own.num_left_out.items())
    more = ((own.num_without_words, "without a word"), (own.num_train_cut, "cut in training"))
    rest = "".join(f"; {what}: {number(count)}" for count, what in more if count)
    return (
        f"{counted(own.num_expressions, 'expression')} of {counted(own.num_images, 'test image')}; heads are trained "
        f"on {number(own.num_train_expressions)}. Left out: {left or 'none'}; cut: {number(own.num_cut)}; with an "
        f"unknown word: {number(own.num_unknown)}{rest}."
    )


def _of(part: str, name: str) -> Any:
    return lambda metrics: getattr(getattr(metrics, part), name)


def _pictures(runs: Sequence[TaskRun], params: ReportParams) -> list[Block]:
    items = []
    for found in side_by_side(picture_rows(runs, GROUNDING_PICTURES), ("image_id", "expression"), params):
        row = found[0][1]
        text, plain = row["expression"], pictured(row, params)
        answers = [
            Answer(one.label, drawing=_drawing(plain, own, text), note=f"IoU {number(own['iou'], 2)}")
            for one, own in found
        ]
        items.append(Example(text, plain, [answers]))
    if not items:
        return []
    note = "Expressions drawn at random, the same for each tokenizer."
    return [Examples("Boxes that the heads find", items, note, legend())]


def legend() -> Markup:
    """What the two lines mean, each as it is drawn."""
    items = (("box", "the object's box"), ("predicted", "the box that the head found"))
    lines = [
        Markup(
            '<li><svg viewBox="0 0 30 10" style="width:30px;display:inline-block">{}</svg> {}</li>'
        ).format(Markup("").join(_line(name, 'x="-20" y="5" width="70" height="40"')), words)
        for name, words in items
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(lines))


def _drawing(plain: Picture, row: Mapping[str, Any], text: str) -> Markup:
    """The picture with both boxes; each line has a dark edge, so that it is seen on any ground."""
    alt = f"{text}: true box and the one found, IoU {number(row['iou'], 2)}"
    parts = [
        open_svg(SIDE, SIDE, alt, fixed=True),
        f'<image class="pixels" width="{SIDE}" height="{SIDE}" href="{plain.uri}"/>',
    ]
    for name in LINES:
        left, top, right, bottom = (SIDE * side for side in row[name])
        size = f'width="{right - left:.1f}" height="{bottom - top:.1f}"'
        parts += _line(name, f'x="{left:.1f}" y="{top:.1f}" {size}')
    return close_svg(parts, SIDE, alt, fixed=True)


def _line(name: str, place: str) -> list[Markup]:
    """A rectangle as `LINES` has it, on a wider dark one."""
    colour, dash = LINES[name]
    return [
        Markup(f'<rect {place} fill="none" stroke="#000000" stroke-width="5"/>'),
        Markup(f'<rect {place} fill="none" stroke="{colour}" stroke-width="2.5"{dash}/>'),
    ]
