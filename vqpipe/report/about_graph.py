"""The modifying graph: its strongest and its most surprising edges, its degrees, and a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.words import ADJECTIVES, EDGES, NOUNS, WORDS
from vqpipe.artifacts.tables import read_table
from vqpipe.codebooks.statistics import degrees
from vqpipe.params.report import ReportParams
from vqpipe.report.blocks import Absent, Block, Cell, Chart, Charts, Column, Table
from vqpipe.report.charts import bipartite, rank_frequency
from vqpipe.report.names import number


@dataclass(frozen=True)
class Word:
    """A word of the vocabulary and how often the captions say it."""

    text: str
    count: int


@dataclass(frozen=True)
class _Edge:
    adjective: str
    noun: str
    count: int
    pmi: float


def read_side(folder: Path, name: str) -> list[Word]:
    """The adjectives or nouns of a words prior in the order of their indices; `name` is that of the table."""
    spec = {spec.name: spec for spec in (ADJECTIVES, NOUNS)}[name]
    table = read_table(folder / f"{name}.parquet", spec).to_pydict()
    return [Word(text, int(count)) for text, count in zip(table["word"], table["count"], strict=True)]


def graph_blocks(folder: Path, params: ReportParams) -> list[Block]:
    """What the report shows of the graph of a words prior."""
    manifest = read_manifest(folder, WORDS)
    adjectives, nouns = read_side(folder, "adjectives"), read_side(folder, "nouns")
    rows = read_table(folder / "edges.parquet", EDGES, ["adjective", "noun", "count", "pmi"]).to_pylist()
    if not rows:
        return [Absent("The graph has no edges.")]
    edges = [
        _Edge(adjectives[row["adjective"]].text, nouns[row["noun"]].text, int(row["count"]), row["pmi"])
        for row in rows
    ]
    edges.sort(key=lambda edge: (-edge.count, edge.adjective, edge.noun))
    surprising = sorted(edges, key=lambda edge: (-edge.pmi, edge.adjective, edge.noun))
    least, shown = manifest.facts["min_count"], params.num_pairs
    weight = (
        f"Weight of an edge in the prior: {manifest.facts['weight']}. PMI: how much more often than by chance, as a "
        "logarithm in nats; chance is what the words' own frequencies in pairs make of it."
    )
    odd = (
        f"Among the pairs that are said at least {number(least)} times. Where words are rare the PMI is high "
        "and uncertain."
    )
    num_words = [len(adjectives), len(nouns)]
    counts = [
        degrees((row[side] for row in rows), num).tolist()
        for side, num in zip(("adjective", "noun"), num_words, strict=True)
    ]
    blocks: list[Block] = [
        _table(
            f"The {number(min(shown, len(edges)))} most said of {number(len(edges))} edges",
            edges[:shown],
            weight,
        ),
        _table(f"The {number(min(shown, len(edges)))} most surprising edges", surprising[:shown], odd),
        _degrees(counts),
    ]
    if drawn := edges[: params.num_edges]:
        blocks.append(_drawing(drawn))
    return blocks


def _table(title: str, edges: Sequence[_Edge], note: str) -> Table:
    columns = [
        Column("adjective", numeric=False),
        Column("noun", numeric=False),
        Column("said", "times"),
        Column("PMI", "nats"),
    ]
    rows = [
        [Cell(edge.adjective), Cell(edge.noun), Cell(number(edge.count)), Cell(number(edge.pmi, 2))]
        for edge in edges
    ]
    return Table(title, columns, rows, note)


def _degrees(counts: Sequence[Sequence[int]]) -> Charts:
    names = ("adjectives", "nouns")
    told = "; ".join(
        f"{number(sum(count > 0 for count in own))} of {number(len(own))} {name} have an edge, the one with the most "
        f"{number(max(own))}"
        for name, own in zip(names, counts, strict=True)
    )
    alt = "Neighbours of each word by rank, logarithmic axes: adjectives and nouns"
    svg = rank_frequency(
        list(zip(names, counts, strict=True)), alt, x_label="rank of the word", y_label="neighbours"
    )
    legend = [(f"c{colour}", name) for colour, name in enumerate(names)]
    note = f"Neighbours of each word in falling order; words without an edge are left out. {told}."
    return Charts("How many neighbours words have", [Chart(svg, "")], legend, note, wide=True)


def _drawing(edges: Sequence[_Edge]) -> Charts:
    alt = f"The {len(edges)} most said adjective-noun edges, adjectives on the left, nouns on the right"
    note = f"The {number(len(edges))} most said edges; the width grows with the square root of the count."
    drawn = [(edge.adjective, edge.noun, edge.count) for edge in edges]
    return Charts(
        "The modifying graph", [Chart(bipartite(drawn, "adjectives", "nouns", alt), "")], (), note, wide=True
    )
