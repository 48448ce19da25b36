"""The modifying graph: which adjective of the vocabulary modifies which noun, how often, at what weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.artifacts.specs.dataset import TRUTH
from vqpipe.artifacts.tables import read_table
from vqpipe.codebooks.statistics import graph_statistics, mutual_information
from vqpipe.params.graph import GraphParams
from vqpipe.runtime.progress import track
from vqpipe.text.chunks import map_captions
from vqpipe.text.counting import count_pairs
from vqpipe.text.merging import PAIRS, Merged, list_pairs, merge_pairs
from vqpipe.text.usable import Limit
from vqpipe.text.vocabulary import Vocabulary

Pair = tuple[str, str]
"""(adjective, noun in the singular)."""


@dataclass(frozen=True)
class Edge:
    """An adjective that modifies a noun: indices into the vocabulary, count, weight, pointwise mutual information
    in nats over all pairs of the vocabulary, first captions' ids."""

    adjective: int
    noun: int
    count: int
    weight: float
    pmi: float
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Edges by (adjective, noun) index; how many pairs the captions say, in all and within the vocabulary."""

    edges: tuple[Edge, ...]
    num_pairs_said: int
    num_pairs_known: int


def build_graph(
    captions: Iterable[tuple[str, str]],
    vocabulary: Vocabulary,
    config: GraphParams,
    limit: Limit | None = None,
) -> Graph:
    """Count the modifier pairs of (id, caption) pairs and make edges of those between vocabulary words.

    Parts of speech come from the backend that made the vocabulary. A pair is an edge when it is said
    `config.min_count` times; its examples are the first distinct ids in the order of the captions. Memory grows
    with the number of distinct pairs between words of the vocabulary.

    Raises:
        DataError: more captions are unusable than `limit` allows; None allows all.
    """
    adjectives = {word: index for index, word in enumerate(vocabulary.adjectives)}
    nouns = {word: index for index, word in enumerate(vocabulary.nouns)}
    known = pa.array(adjectives, pa.string()), pa.array(nouns, pa.string())
    work = partial(count_pairs, pos=vocabulary.pos, phrases=config.phrases)
    merged, said, text, examples = Merged(PAIRS, merge_pairs), 0, Counter[str](), dict[str, str]()
    for pairs, said_of, marked in track(map_captions(work, captions, vocabulary.pos), "counting pairs"):
        text.update(said_of)
        examples = {**marked, **examples}
        said += pc.sum(pairs["count"]).as_py() or 0
        is_known = pc.and_(pc.is_in(pairs["adjective"], known[0]), pc.is_in(pairs["noun"], known[1]))
        merged.add(pairs.filter(is_known))
    (limit or Limit()).check(text, examples)
    listed = list_pairs(merged.table())
    keys = zip(listed["adjective"].to_pylist(), listed["noun"].to_pylist(), strict=True)
    counts: dict[Pair, int] = dict(zip(keys, listed["count"].to_pylist(), strict=True))
    weights, pmi = edge_weights(counts, config.weight), mutual_information(counts)
    edges = []
    for row in listed.filter(pc.greater_equal(listed["count"], config.min_count)).to_pylist():
        pair = (row["adjective"], row["noun"])
        place = adjectives[pair[0]], nouns[pair[1]]
        edges.append(Edge(*place, row["count"], weights[pair], pmi[pair], tuple(row["ids"])))
    edges.sort(key=lambda edge: (edge.adjective, edge.noun))
    return Graph(tuple(edges), said, sum(counts.values()))


def edge_weights(counts: Mapping[Pair, int], kind: str) -> dict[Pair, float]:
    """Weights by pair: 1 (`binary`), the count (`count`), or positive pointwise mutual information (`pmi`).

    A pair at or below chance weighs 0 by `pmi`; see `mutual_information`.
    """
    if kind == "binary":
        return dict.fromkeys(counts, 1.0)
    if kind == "count":
        return {pair: float(count) for pair, count in counts.items()}
    return {pair: max(0.0, pmi) for pair, pmi in mutual_information(counts).items()}


def graph_metrics(graph: Graph, vocabulary: Vocabulary) -> dict[str, Any]:
    """Size and shape, see `graph_statistics`; pairs said, and the share of them within the vocabulary."""
    pairs = [(edge.adjective, edge.noun) for edge in graph.edges]
    return {
        **graph_statistics(pairs, len(vocabulary.adjectives), len(vocabulary.nouns)),
        "num_pairs_said": graph.num_pairs_said,
        "pairs_in_vocabulary": round(graph.num_pairs_known / max(1, graph.num_pairs_said), 6),
    }


def truth_metrics(
    graph: Graph, vocabulary: Vocabulary, said: Mapping[Pair, int], min_count: int
) -> dict[str, Any]:
    """Edge precision and recall against the pairs that a data set's own truth says `min_count` times or more.

    A true pair counts against recall even when its words are not in the vocabulary.
    """
    adjectives, nouns = list(vocabulary.adjectives), list(vocabulary.nouns)
    found = {(adjectives[edge.adjective], nouns[edge.noun]) for edge in graph.edges}
    true = {pair for pair, count in said.items() if count >= min_count}
    right = len(found & true)
    return {
        "precision": round(right / max(1, len(found)), 6),
        "recall": round(right / max(1, len(true)), 6),
        "num_true_edges": len(true),
    }


def measure(graph: Graph, vocabulary: Vocabulary, truth: Path, min_count: int) -> dict[str, Any]:
    """`graph_metrics`, and `truth_metrics` where there is a table of the data set's true pairs at `truth`.

    Raises:
        ArtifactError: the table is of another spec or version.
    """
    measured = graph_metrics(graph, vocabulary)
    if truth.is_file():
        table = read_table(truth, TRUTH, ["adjective", "noun", "said_train"])
        pairs = zip(table["adjective"].to_pylist(), table["noun"].to_pylist(), strict=True)
        said = dict(zip(pairs, table["said_train"].to_pylist(), strict=True))
        measured |= truth_metrics(graph, vocabulary, said, min_count)
    return measured
