"""Runs of one task by what their heads see: tokenizers' codes, and the inputs that these are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vqpipe.artifacts.spec import TableSpec
from vqpipe.artifacts.tables import read_table
from vqpipe.report.blocks import Answer, Cell, Column, Example, Picture
from vqpipe.report.inputs import ReportParams
from vqpipe.report.names import cell, change, column
from vqpipe.report.pictures import decode_png, picture
from vqpipe.report.task_pairs import BY_EXAMPLE, TaskRun

PICTURES = "pictures.parquet"
Row = Mapping[str, Any]
Shown = tuple[TaskRun, Row]
"""A run and a row of its pictures, which has the path of its table as `file`."""


def add_changes(columns: list[Column], rows: Sequence[list[Cell]], runs: Sequence[TaskRun]) -> None:
    """Put a column after that of the task's main measure: how much more of it each run has than the first one.

    Args:
        columns: of the table.
        rows: those of `runs`, with a dash where the examples are not the same, then others, which get nothing.
        runs: of one task.
    """
    base, *others = runs
    measure, (_, name) = next(iter(BY_EXAMPLE[base.config.kind].items()))
    key, cells = ("fresh", measure), [Cell("")] * len(rows)
    for row, run in enumerate(others, 1):
        found = run.difference(run.values.get(key), base.values.get(key))
        cells[row] = Cell("–") if found is None else change(name, found)
    at = columns.index(column(name)) + 1
    columns.insert(at, Column("change", f"points, from {base.label}"))
    for own, given in zip(rows, cells, strict=True):
        own.insert(at, given)


def picture_rows(runs: Sequence[TaskRun], spec: TableSpec) -> list[Shown]:
    """The rows of the pictures of all runs that have tables, run by run.

    Args:
        spec: of the pictures of their task.

    Raises:
        ArtifactError: a table is damaged or of another version.
    """
    return [
        (run, row | {"file": run.folder / PICTURES})
        for run in runs
        if run.has_tables
        for row in read_table(run.folder / PICTURES, spec).to_pylist()
    ]


def side_by_side(
    shown: Iterable[Shown], keys: Sequence[str], params: ReportParams, among: int = 1
) -> list[list[Shown]]:
    """The rows of one example together; the first `num_task_examples` examples.

    Args:
        keys: the columns that are equal in the rows of one example.
        among: rows that an example has at least; others are left out.
    """
    groups: dict[str, list[Shown]] = {}
    for run, row in shown:
        groups.setdefault(str([row[key] for key in keys]), []).append((run, row))
    return [found for found in groups.values() if len(found) >= among][: params.num_task_examples]


def pictured(row: Row, params: ReportParams, title: str = "") -> Picture:
    """The test image of a row, with its title as part of the alternative text.

    Raises:
        ArtifactError: bytes that give no image.
    """
    image = row["image_id"]
    pixels = decode_png(row["picture"], params.max_picture_pixels, f"{row['file']}: image {image}", "task")
    return picture(pixels, f"test image {image}: {title}" if title else f"test image {image}")


def examples(
    runs: Sequence[TaskRun],
    spec: TableSpec,
    params: ReportParams,
    about: Callable[[Row], tuple[str, str]],
    answer: Callable[[Row, str], Answer],
) -> list[Example]:
    """The first images that all runs with tables have, each with the answers side by side.

    Args:
        runs: of one task.
        spec: of its pictures.
        params: how many and how large.
        about: the text of an example, and what is known of it.
        answer: a run's answer from its row, and the run's name.

    Raises:
        ArtifactError: a table is damaged or of another version.
    """
    made, whole = [], sum(run.has_tables for run in runs)
    for found in side_by_side(picture_rows(runs, spec), ("image_id",), params, among=whole):
        row = found[0][1]
        text, known = about(row)
        made.append(
            Example(text, pictured(row, params), [[answer(own, run.label) for run, own in found]], known)
        )
    return made


def by_name(found: Sequence[tuple[str, str]], joined: str) -> str:
    """Texts with the names that they are of: a text alone where all have the same one.

    Args:
        found: name and text.
        joined: what comes between two texts.
    """
    names: dict[str, list[str]] = {}
    for name, text in found:
        own = names.setdefault(text, [])
        if name not in own:
            own.append(name)
    if len(names) == 1:
        return next(iter(names))
    return joined.join(f"{', '.join(own)}: {text}" for text, own in names.items())


def references(
    found: Sequence[tuple[TaskRun, str, Any]],
    label: str,
    values: Sequence[tuple[str, Callable[[Any], float | None]]],
    width: int,
) -> list[list[Cell]]:
    """Quiet rows of a reference: one where it is the same for all, else one for each distinct value with the tokenizers
    it is of.

    Args:
        values: the measures of the first columns, and how each is read from the metrics of a run.
    """
    distinct: dict[tuple[str, ...], tuple[list[Cell], list[str]]] = {}
    for run, _, part in found:
        cells = [Cell("") if (value := of(part)) is None else cell(name, value) for name, of in values]
        own = distinct.setdefault(tuple(item.text for item in cells), (cells, []))[1]
        if run.label not in own:
            own.append(run.label)
    return [
        [Cell(label if len(distinct) == 1 else f"{label} ({', '.join(names)})"), Cell(""), *cells]
        + [Cell("")] * (width - len(cells))
        for cells, names in distinct.values()
    ]
