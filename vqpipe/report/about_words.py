"""The words: vocabulary, modifying graph and its strongest edges; and the patch clusters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqpipe.artifacts.publish import MANIFEST, read_manifest
from vqpipe.artifacts.specs.centroids import CENTROID_TENSORS
from vqpipe.artifacts.specs.words import ADJECTIVES, EDGES, NOUNS, WORDS
from vqpipe.artifacts.tables import read_table
from vqpipe.artifacts.tensors import read_tensors
from vqpipe.params.report import ReportParams
from vqpipe.report.blocks import Absent, Block, Cell, Chart, Charts, Column, Section, Table, Text
from vqpipe.report.charts import bipartite, rank_frequency
from vqpipe.report.gate import flatten
from vqpipe.report.inputs import Inputs
from vqpipe.report.names import number


def about_words(inputs: Inputs, params: ReportParams) -> Section:
    """The section `Words`."""
    blocks: list[Block] = [
        Text(
            "Adjectives and nouns are found in the training captions by part of "
            "speech. An edge joins an adjective to a noun that the captions "
            "say it modifies at least as often as the params ask. Together with the "
            "words' CLIP vectors this graph is one of the codebook priors."
        )
    ]
    for stage, title in (("vocabulary", "Vocabulary"), ("graph", "Modifying graph")):
        metrics = inputs.stages.get(stage)
        if metrics is None:
            blocks.append(Absent(f"{title}: no metrics file of the {stage} stage. Run: dvc repro {stage}"))
        else:
            blocks.append(plain_table(f"{title} in numbers", metrics))
    folder = inputs.folder("prior", "words")
    if not (folder / MANIFEST).is_file():
        return Section(
            "words",
            "Words",
            [*blocks, Absent("The graph is absent in this checkout. Run: dvc pull, or dvc repro graph")],
        )
    return Section("words", "Words", [*blocks, *_graph(folder, params)])


def _graph(folder: Path, params: ReportParams) -> list[Block]:
    manifest = read_manifest(folder, WORDS)
    adjectives, nouns = (
        read_table(folder / f"{spec.name}.parquet", spec).to_pydict() for spec in (ADJECTIVES, NOUNS)
    )
    table = read_table(folder / "edges.parquet", EDGES, ["adjective", "noun", "count"]).to_pylist()
    edges = [(adjectives["word"][e["adjective"]], nouns["word"][e["noun"]], int(e["count"])) for e in table]
    edges.sort(key=lambda edge: (-edge[2], edge[0], edge[1]))
    if not edges:
        return [Absent("The graph has no edges.")]
    blocks: list[Block] = [_most_said(adjectives, nouns, params.num_pairs)]
    rows = [[Cell(a), Cell(n), Cell(number(c))] for a, n, c in edges[: params.num_pairs]]
    columns = [Column("adjective", numeric=False), Column("noun", numeric=False), Column("said", "times")]
    note = f"Weight of an edge in the prior: {manifest.facts.get('weight', 'unknown')}."
    blocks.append(
        Table(f"The {number(len(rows))} most said of {number(len(edges))} edges", columns, rows, note)
    )
    drawn = edges[: params.num_edges]
    if drawn:
        alt = f"The {len(drawn)} most said adjective-noun edges, adjectives on the left, nouns on the right"
        note = f"The {number(len(drawn))} most said edges; the width grows with the square root of the count."
        blocks.append(
            Charts(
                "The modifying graph",
                [Chart(bipartite(drawn, "adjectives", "nouns", alt), "")],
                (),
                note,
                wide=True,
            )
        )
    return blocks


def _most_said(adjectives: Mapping[str, list[Any]], nouns: Mapping[str, list[Any]], limit: int) -> Table:
    def top(words: Mapping[str, list[Any]]) -> list[tuple[str, str]]:
        order = sorted(zip(words["word"], words["count"], strict=True), key=lambda item: (-item[1], item[0]))
        return [(word, number(count)) for word, count in order[:limit]]

    left, right = top(adjectives), top(nouns)
    rows = []
    for i in range(max(len(left), len(right))):
        (a, a_count), (n, n_count) = (side[i] if i < len(side) else ("", "") for side in (left, right))
        rows.append([Cell(str(i + 1)), Cell(a), Cell(a_count), Cell(n), Cell(n_count)])
    columns = [
        Column("rank", numeric=False),
        Column("adjective", numeric=False),
        Column("said", "times"),
        Column("noun", numeric=False),
        Column("said", "times"),
    ]
    note = (
        f"The vocabulary has {number(len(adjectives['word']))} adjectives and "
        f"{number(len(nouns['word']))} nouns."
    )
    return Table("The most said words", columns, rows, note)


def about_clusters(inputs: Inputs) -> Section:
    """The section `Patch clusters`."""
    blocks: list[Block] = [
        Text(
            "Pooled CLIP features of image patches are clustered by k-means; the "
            "centroids are the other codebook prior."
        )
    ]
    for stage, title in (("patches", "Patches"), ("cluster", "Clusters")):
        metrics = inputs.stages.get(stage)
        if metrics is None:
            blocks.append(Absent(f"{title}: no metrics file of the {stage} stage. Run: dvc repro {stage}"))
        else:
            blocks.append(plain_table(f"{title} in numbers", metrics))
    folder = inputs.folder("prior", "patches")
    if not (folder / MANIFEST).is_file():
        return Section(
            "clusters",
            "Patch clusters",
            [
                *blocks,
                Absent("The centroids are absent in this checkout. Run: dvc pull, or dvc repro cluster"),
            ],
        )
    tensors, _ = read_tensors(folder / "centroids.safetensors", CENTROID_TENSORS)
    counts = tensors["counts"].tolist()
    alt = "Patches of each cluster by rank, logarithmic axes"
    note = (
        f"Patches of each of the {number(len(counts))} clusters in falling order; the largest "
        f"holds {number(max(counts))}, the smallest {number(min(counts))}."
    )
    svg = rank_frequency([("clusters", counts)], alt, x_label="rank of the cluster", y_label="patches")
    return Section(
        "clusters",
        "Patch clusters",
        [*blocks, Charts("Sizes of the clusters", [Chart(svg, "")], (), note, wide=True)],
    )


def plain_table(title: str, metrics: Mapping[str, Any]) -> Table:
    """All numbers and words of a metrics file, one a row."""
    rows = [
        [Cell(name.replace("_", " ").replace(".", ": ")), Cell(number(value))]
        for name, value in flatten(metrics).items()
    ]
    rows += [
        [Cell(name.replace("_", " ")), Cell(value)]
        for name, value in sorted(metrics.items())
        if isinstance(value, str)
    ]
    return Table(title, [Column("measure", numeric=False), Column("value")], rows)
