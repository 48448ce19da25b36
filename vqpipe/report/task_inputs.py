"""Runs of one task by what their heads see: tokenizers' codes, and the inputs that these are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vqpipe.artifacts.spec import TableSpec
from vqpipe.artifacts.tables import read_table
from vqpipe.report.blocks import Answer, Cell, Example, Picture
from vqpipe.report.inputs import ReportParams
from vqpipe.report.names import change
from vqpipe.report.pictures import decode_png, picture
from vqpipe.report.task_pairs import TaskRun

Row = Mapping[str, Any]
PICTURES = "pictures.parquet"

REFERENCES = {
    "latents": "latents of {} before quantising",
    "clip": "features of the run's CLIP",
    "patches": "k-means codes of raw patches, {} bits",
    "none": "no image",
}
"""How the inputs are called that codes are compared with, best first; with a tokenizer's name."""


def parted(runs: Sequence[TaskRun]) -> tuple[list[TaskRun], list[TaskRun]]:
    """Runs on codes, and those on other inputs in the order of `REFERENCES`."""
    kinds = list(REFERENCES)
    others = [run for run in runs if run.config.input in REFERENCES]
    return (
        [run for run in runs if run.config.input not in REFERENCES],
        sorted(others, key=lambda run: kinds.index(run.config.input)),
    )


def name_of(run: TaskRun) -> str:
    """A run's tokenizer, or what its head sees in the place of codes."""
    found = REFERENCES.get(run.config.input)
    if found is None:
        return run.config.tokenizer
    capped = ", capped" if run.metrics.protocol.input.endswith("_capped") else ""
    return found.format(f"{run.config.tokenizer}'s" if "bits" in found else run.config.tokenizer) + capped


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
            Example(
                text, _picture(run, row, params), [[answer(row, name_of(run)) for run, row in own]], known
            )
        )
    return made


def _picture(run: TaskRun, row: Row, params: ReportParams) -> Picture:
    where = f"{run.folder / PICTURES}: image {row['image_id']}"
    pixels = decode_png(row["picture"], params.max_picture_pixels, where, "task")
    return picture(pixels, f"test image {row['image_id']}")
