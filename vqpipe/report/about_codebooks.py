"""The two codebooks: words with their counts, the graph between them, and the patch clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import MANIFEST, read_manifest
from vqpipe.artifacts.specs.codebooks import ADJECTIVES, CENTROID_TENSORS, EDGES, NOUNS, WORDS_CODEBOOK
from vqpipe.artifacts.tables import read_table
from vqpipe.artifacts.tensors import read_tensors
from vqpipe.codebooks.statistics import DegreesByClass, degrees
from vqpipe.errors import counted
from vqpipe.report.blocks import Absent, Beside, Block, Cell, Chart, Charts, Column, Section, Table, Text
from vqpipe.report.charts import Series, bipartite, line_chart, rank_frequency
from vqpipe.report.gate import flatten
from vqpipe.report.inputs import Inputs, ReportParams
from vqpipe.report.names import number
from vqpipe.text.graph import GraphMetrics

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
    intro = Text(
        "Adjectives and nouns are found in the training captions by part of speech. An edge joins an adjective to "
        "a noun that it modifies often enough (graph.min_count in the params). This graph and the words' vectors "
        "are the words codebook."
    )
    blocks: list[Block] = []
    of_stage: dict[str, Metrics | None] = {"vocabulary": inputs.vocabulary, "graph": inputs.graph}
    for stage, title in (("vocabulary", "Vocabulary"), ("graph", "Modifying graph")):
        metrics = of_stage[stage]
        if metrics is None:
            blocks.append(Absent(f"{title}: no metrics file of the {stage} stage. Run: dvc repro {stage}"))
        else:
            blocks.append(plain_table(f"{title} in numbers", metrics))
    graph = inputs.graph
    neighbours = [_degree_table(graph.degree)] if isinstance(graph, GraphMetrics) else []
    folder = inputs.folder("codebook", "words")
    if not (folder / MANIFEST).is_file():
        return Section(
            "words",
            "Words",
            [
                intro,
                *blocks,
                *neighbours,
                Absent("The graph is absent in this checkout. Run: dvc pull, or dvc repro graph"),
            ],
        )
    first, *rest = graph_blocks(folder, params)
    words = _most_frequent(folder, params.num_pairs)
    return Section("words", "Words", [intro, first, *blocks, words, *neighbours, *rest])


def _degree_table(degree: DegreesByClass) -> Table:
    def shown(value: float | None) -> Cell:
        return Cell("–" if value is None else number(value, 0 if float(value).is_integer() else 1))

    rows = [
        [Cell(name), *(shown(getattr(own, key)) for key in DEGREES)]
        for name, own in (("adjectives", degree.adjectives), ("nouns", degree.nouns))
        if own.mean is not None
    ]
    columns = [Column("words", numeric=False), *(Column(label) for label in DEGREES.values())]
    note = "Edges of a word: quantiles, mean and maximum over all words of the class, those without an edge included."
    return Table("Neighbours of the words", columns, rows, note)


def _most_frequent(folder: Path, limit: int) -> Table:
    adjectives, nouns = read_side(folder, "adjectives"), read_side(folder, "nouns")
    sides = [sorted(side, key=lambda word: (-word.count, word.text))[:limit] for side in (adjectives, nouns)]
    rows = [
        [Cell(str(rank)), *(cell for word in pair for cell in _cells(word))]
        for rank, pair in enumerate(zip_longest(*sides), start=1)
    ]
    columns = [
        Column("rank", numeric=False),
        Column("adjective", numeric=False),
        Column("count", "in captions"),
        Column("noun", numeric=False),
        Column("count", "in captions"),
    ]
    note = f"The vocabulary has {counted(len(adjectives), 'adjective')} and {counted(len(nouns), 'noun')}."
    return Table("The most frequent words", columns, rows, note)


def _cells(word: Word | None) -> tuple[Cell, Cell]:
    return (Cell(word.text), Cell(number(word.count))) if word else (Cell(""), Cell(""))


FIELDS = {
    "num_captions": "captions read",
    "num_tokens": "words and signs in them",
    "captions_empty": "captions without a letter",
    "captions_control": "captions with control or invisible characters",
    "captions_markup": "captions with tags or entities",
    "captions_cut": "captions that were too long and were cut",
    "captions_other_script": "captions in another script",
    "captions_other_language": "captions in another language",
    "captions_unusable": "captions left out",
    "captions_without_id": "captions without an id",
    "captions_other_splits": "captions of other splits, not read",
    "unusable_share": "captions that are unusable, %",
    "captions_repeated": "captions that repeat an earlier one",
    "repeats_are_estimated": "the number of repeats is an estimate",
    "num_words_other_script": "occurrences of words in another script",
    "num_adjectives": "adjectives in the vocabulary",
    "num_adjectives_said": "distinct adjectives in the captions",
    "adjectives_coverage": "occurrences of adjectives that the vocabulary covers, %",
    "num_adjectives_not_single_tokens": "adjectives of several CLIP tokens, left out",
    "num_nouns": "nouns in the vocabulary",
    "num_nouns_said": "distinct nouns in the captions",
    "nouns_coverage": "occurrences of nouns that the vocabulary covers, %",
    "num_nouns_not_single_tokens": "nouns of several CLIP tokens, left out",
    "num_in_both": "words that are both an adjective and a noun",
    "num_edges": "edges",
    "density": "possible pairs that are edges, %",
    "num_components": "connected components of two words or more",
    "largest_component": "words in the largest component, %",
    "isolated_adjectives": "adjectives without an edge",
    "isolated_nouns": "nouns without an edge",
    "num_pairs_said": "occurrences of pairs in the captions",
    "pairs_in_vocabulary": "occurrences of pairs that the codebook's words cover, %",
    "precision": "edges that the data set's truth has (precision), %",
    "recall": "true pairs that are edges (recall), %",
    "num_true_edges": "pairs frequent enough for an edge by the truth",
    "vectors": "words in the vectors file",
    "num_images": "images",
    "num_vectors": "patch features",
    "num_shards": "files of features",
    "dim": "dimensions of a feature",
    "grid": "features along a side of an image",
    "variance_per_dim": "variance of the features, mean over dimensions",
    "mean_square_per_dim": "mean square of the features, mean over dimensions",
    "num_clusters": "clusters (K)",
    "objective": "mean squared distance to the nearest centroid",
    "objective_at_start": "mean squared distance before the first iteration",
    "objective_before_pull": "mean squared distance before the pull of prefixes",
    "last_relative_change": "decrease in the last iteration, %",
    "num_iterations": "iterations of k-means",
    "num_trained_on": "patch features trained on",
    "num_empty": "empty clusters at the end",
    "num_refilled": "empty clusters refilled during the iterations",
    "smallest_cluster": "features in the smallest cluster",
    "largest_cluster": "features in the largest cluster",
    "prefixes": "mean squared distance to the nearest of the first centroids",
}
"""What the metrics of the words' and the clusters' stages are called."""
FAULTS = ("captions_", "num_words_other_script")
"""How the names of fields begin that count faults of captions: those that are 0 share a line."""


def plain_table(title: str, metrics: Metrics) -> Table:
    """All numbers and texts of a metrics file, one a row; degrees have a table of their own."""
    rows, none = [], []
    for field, value in metrics.plain().items():
        label = FIELDS.get(field, field.replace("_", " "))
        if field.startswith(FAULTS) and value == 0:
            none.append(label)
            continue
        for name, found in flatten({} if field == "degree" else value).items():
            parts = [part.replace("_", " ") for part in name.split(".") if part not in ("", "objective")]
            rows.append([Cell(": ".join([label, *parts])), _plain_cell(label, found)])
    note = f"None: {'; '.join(none)}." if none else ""
    return Table(title, [Column("measure", numeric=False), Column("value")], rows, note)


def _plain_cell(label: str, value: float | str) -> Cell:
    if isinstance(value, str):
        return Cell(value)
    return Cell(number(100 * value, 2) if label.endswith("%") else number(value))


@dataclass(frozen=True)
class Word:
    """A word of the vocabulary and how often it occurs in the captions."""

    text: str
    count: int


@dataclass(frozen=True)
class _Edge:
    adjective: str
    noun: str
    count: int
    pmi: float


def read_side(folder: Path, name: str) -> list[Word]:
    """The adjectives or nouns of a words codebook in the order of their indices; `name` is that of the table."""
    spec = {spec.name: spec for spec in (ADJECTIVES, NOUNS)}[name]
    table = read_table(folder / f"{name}.parquet", spec).to_pydict()
    return [Word(text, int(count)) for text, count in zip(table["word"], table["count"], strict=True)]


def graph_blocks(folder: Path, params: ReportParams) -> list[Block]:
    """What the report shows of the graph of a words codebook, its picture first."""
    manifest = read_manifest(folder, WORDS_CODEBOOK)
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
        f"Weight of an edge in the codebook: {manifest.facts['weight']}. PMI: how much more often than by chance, as a "
        "logarithm in nats; chance is what the words' own frequencies in pairs make of it."
    )
    odd = (
        f"Among the pairs that occur at least {number(least)} times. Where words are rare the PMI is high "
        "and uncertain."
    )
    num_words = [len(adjectives), len(nouns)]
    counts = [
        degrees((row[side] for row in rows), num).tolist()
        for side, num in zip(("adjective", "noun"), num_words, strict=True)
    ]
    frequent = _table(
        f"The {number(min(shown, len(edges)))} most frequent of {counted(len(edges), 'edge')}",
        edges[:shown],
        weight,
    )
    drawn = edges[: params.num_edges]
    return [
        Beside([_drawing(drawn)], frequent) if drawn else frequent,
        _table(f"The {number(min(shown, len(edges)))} most surprising edges", surprising[:shown], odd),
        _degrees(counts),
    ]


def _table(title: str, edges: Sequence[_Edge], note: str) -> Table:
    columns = [
        Column("adjective", numeric=False),
        Column("noun", numeric=False),
        Column("count", "in captions"),
        Column("PMI", "nats"),
    ]
    rows = [
        [Cell(edge.adjective), Cell(edge.noun), Cell(number(edge.count)), Cell(number(edge.pmi, 2))]
        for edge in edges
    ]
    return Table(title, columns, rows, note)


def _degrees(counts: Sequence[Sequence[int]]) -> Charts:
    names = ("adjectives", "nouns")
    summary = "; ".join(
        f"{number(sum(count > 0 for count in own))} of {number(len(own))} {name} have an edge, the one with the most "
        f"{number(max(own))}"
        for name, own in zip(names, counts, strict=True)
    )
    alt = "Neighbours of each word by rank, logarithmic axes: adjectives and nouns"
    svg = rank_frequency(
        list(zip(names, counts, strict=True)), alt, x_label="rank of the word", y_label="neighbours"
    )
    legend = [(f"c{colour}", name) for colour, name in enumerate(names)]
    note = f"Neighbours of each word in falling order; words without an edge are left out. {summary}."
    return Charts("How many neighbours words have", [Chart(svg, "")], legend, note, wide=True)


def _drawing(edges: Sequence[_Edge]) -> Charts:
    alt = f"The {len(edges)} most frequent adjective-noun edges, adjectives on the left, nouns on the right"
    note = f"The {number(len(edges))} most frequent edges; the width grows with the square root of the count."
    drawn = [(edge.adjective, edge.noun, edge.count) for edge in edges]
    return Charts(
        "The modifying graph", [Chart(bipartite(drawn, "adjectives", "nouns", alt), "")], (), note, wide=True
    )


def about_clusters(inputs: Inputs) -> Section:
    """The section `Patch clusters`."""
    blocks: list[Block] = [
        Text(
            "Pooled CLIP features of image patches make the patches codebook: "
            "the centroids of k-means, unless the params say otherwise."
        )
    ]
    of_stage: dict[str, Metrics | None] = {"patches": inputs.patches, "cluster": inputs.cluster}
    for stage, title in (("patches", "Patches"), ("cluster", "Clusters")):
        metrics = of_stage[stage]
        if metrics is None:
            blocks.append(Absent(f"{title}: no metrics file of the {stage} stage. Run: dvc repro {stage}"))
        else:
            blocks.append(plain_table(f"{title} in numbers", metrics))
    folder = inputs.folder("codebook", "patches")
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
        f"Patches of each of {counted(len(counts), 'cluster')} in falling order; the largest "
        f"has {number(max(counts))}, the smallest {number(min(counts))}."
    )
    svg = rank_frequency([("clusters", counts)], alt, x_label="rank of the cluster", y_label="patches")
    sizes = Charts("Sizes of the clusters", [Chart(svg, "")], (), note, wide=True)
    return Section("clusters", "Patch clusters", [*blocks, *_objective(inputs), sizes])


def _objective(inputs: Inputs) -> list[Block]:
    """The k-means objective by iteration; nothing where the codebook is not k-means' (random vectors, say)."""
    curve = inputs.curves.get("cluster", {}).get("cluster")
    if curve is None or len(curve["step"]) < 2:
        return []
    line = [Series("objective", curve["step"], curve["objective"], 0)]
    svg = line_chart(line, x_label="iteration", y_label="", alt="k-means objective by iteration", log_y=False)
    refilled = sum(curve["refilled"])
    note = (
        "Mean squared distance of a vector to its nearest centroid, before each iteration's update. A curve that "
        f"still falls asks for more iterations. Empty clusters refilled over the run: {number(refilled)}."
    )
    return [Charts("Objective", [Chart(svg, "")], (), note, wide=True)]
