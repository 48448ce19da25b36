"""The words: vocabulary, modifying graph and its strongest edges."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from vqpipe.artifacts.publish import MANIFEST
from vqpipe.params.report import ReportParams
from vqpipe.report.about_graph import Word, graph_blocks, read_side
from vqpipe.report.blocks import Absent, Block, Cell, Column, Section, Table, Text
from vqpipe.report.gate import flatten
from vqpipe.report.inputs import Inputs
from vqpipe.report.names import number

DEGREES = {
    "mean": "mean",
    "quarter": "quarter",
    "median": "median",
    "three_quarters": "three quarters",
    "ninety_percent": "90 %",
    "max": "most",
}
"""The statistics of the words' degrees, as columns."""


def about_words(inputs: Inputs, params: ReportParams) -> Section:
    """The section `Words`."""
    blocks: list[Block] = [
        Text(
            "Adjectives and nouns are found in the training captions by part of "
            "speech. An edge joins an adjective to a noun that the captions "
            "say it modifies at least as often as the params ask. Together with the "
            "words' vectors this graph is one of the codebook priors."
        )
    ]
    for stage, title in (("vocabulary", "Vocabulary"), ("graph", "Modifying graph")):
        metrics = inputs.stages.get(stage)
        if metrics is None:
            blocks.append(Absent(f"{title}: no metrics file of the {stage} stage. Run: dvc repro {stage}"))
        else:
            flat = {name: value for name, value in metrics.items() if name != "degree"}
            blocks.append(plain_table(f"{title} in numbers", flat))
            if metrics.get("degree"):
                blocks.append(_degree_table(metrics["degree"]))
    folder = inputs.folder("prior", "words")
    if not (folder / MANIFEST).is_file():
        return Section(
            "words",
            "Words",
            [*blocks, Absent("The graph is absent in this checkout. Run: dvc pull, or dvc repro graph")],
        )
    return Section(
        "words", "Words", [*blocks, _most_said(folder, params.num_pairs), *graph_blocks(folder, params)]
    )


def _degree_table(degree: Mapping[str, Mapping[str, float]]) -> Table:
    rows = [
        [Cell(name), *(Cell(number(own[key], 0 if float(own[key]).is_integer() else 1)) for key in DEGREES)]
        for name, own in sorted(degree.items())
        if own
    ]
    columns = [Column("words", numeric=False), *(Column(label) for label in DEGREES.values())]
    note = "Edges of a word: quantiles, mean and maximum over all words of the class, those without an edge included."
    return Table("Neighbours of the words", columns, rows, note)


def _most_said(folder: Path, limit: int) -> Table:
    adjectives, nouns = read_side(folder, "adjectives"), read_side(folder, "nouns")
    sides = [sorted(side, key=lambda word: (-word.count, word.text))[:limit] for side in (adjectives, nouns)]
    rows = [
        [Cell(str(rank)), *(cell for word in pair for cell in _cells(word))]
        for rank, pair in enumerate(zip_longest(*sides), start=1)
    ]
    columns = [
        Column("rank", numeric=False),
        Column("adjective", numeric=False),
        Column("said", "times"),
        Column("noun", numeric=False),
        Column("said", "times"),
    ]
    note = f"The vocabulary has {number(len(adjectives))} adjectives and {number(len(nouns))} nouns."
    return Table("The most said words", columns, rows, note)


def _cells(word: Word | None) -> tuple[Cell, Cell]:
    return (Cell(word.text), Cell(number(word.count))) if word else (Cell(""), Cell(""))


def plain_table(title: str, metrics: Mapping[str, Any]) -> Table:
    """All numbers and words of a metrics file, one a row."""
    rows = [
        [Cell(name.replace("_", " ").replace(".", ": ")), Cell(number(value))]
        for name, value in flatten(metrics).items()
        if not isinstance(value, str)
    ]
    rows += [
        [Cell(name.replace("_", " ")), Cell(value)]
        for name, value in sorted(metrics.items())
        if isinstance(value, str)
    ]
    return Table(title, [Column("measure", numeric=False), Column("value")], rows)
