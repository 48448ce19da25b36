"""Runs of one task by what their heads see: tokenizers' codes, and the inputs that these are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vqpipe.artifacts.spec import TableSpec
from vqpipe.artifacts.tables import read_table
from vqpipe.report.blocks import Answer, Cell, Example, Picture
from vqpipe.report.inputs import ReportParams
from vqpipe.report.names import cell, change
from vqpipe.report.pictures import decode_png, picture
from vqpipe.report.task_pairs import TaskRun

Row = Mapping[str, Any]
PICTURES = "pictures.parquet"


def difference(run: TaskRun, base: TaskRun, measure: str, shown_as: str) -> Cell:
    """What a run's measure is more than another's, on the same examples; a dash where that cannot be judged."""
    if run is base:
        return Cell("")
    key = ("fresh", measure)
    found = run.difference(run.values.get(key), base.values.get(key))
    return Cell("–") if found is None else change(shown_as, found)


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
    found: dict[str, list[tuple[TaskRun, Row]]] = {}
    whole = [run for run in runs if run.has_tables]
    for run in whole:
        for row in read_table(run.folder / PICTURES, spec).to_pylist():
            found.setdefault(row["image_id"], []).append((run, row))
    shared = [own for own in found.values() if len(own) == len(whole)]
    made = []
    for own in shared[: params.num_task_examples]:
        run, row = own[0]
        text, known = about(row)
        made.append(
            Example(text, _picture(run, row, params), [[answer(row, run.label) for run, row in own]], known)
        )
    return made


def _picture(run: TaskRun, row: Row, params: ReportParams) -> Picture:
    where = f"{run.folder / PICTURES}: image {row['image_id']}"
    pixels = decode_png(row["picture"], params.max_picture_pixels, where, "task")
    return picture(pixels, f"test image {row['image_id']}")


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
