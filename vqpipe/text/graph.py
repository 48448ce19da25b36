"""The modifying graph: which pairs of the vocabulary become edges, at what weight, and what the graph is like."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field

from vqpipe.artifacts.specs.dataset import TRUTH
from vqpipe.artifacts.tables import read_table
from vqpipe.codebooks.statistics import GraphStatistics, graph_shape, mutual_information
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.params.base import Params
from vqpipe.text.vectors import VectorMetrics, VectorParams, WordVectors

Weight = Literal["binary", "count", "pmi"]
A = TypeVar("A", bound=Hashable)


class GraphParams(Params):
    """The modifying graph between the vocabulary's adjectives and nouns."""

    min_count: int = Field(ge=1)
    """A pair must occur at least this often to be an edge."""
    weight: Weight
    """What the codebook says of an edge: `binary`: 1; `count`: how often the pair occurs; `pmi`: positive pointwise
    mutual information in nats, 0 where the pair is no more frequent than chance. Which pairs are edges does not depend
    on it, and counts and mutual information are in the codebook in any case. VQCT reads it with
    `transfer.edge_weights: graph` alone; `binary` (its paper) and `count` (its code) there need nothing of it."""
    vectors: VectorParams
    """Where the word vectors come from."""


class GraphMetrics(GraphStatistics):
    """Size and shape of the modifying graph, how much of the captions it covers, and how true it is."""

    num_pairs_said: int
    """How often any pair occurs in the captions."""
    pairs_in_vocabulary: float
    """Share of those that are pairs of two words of the codebook, 0 to 1; higher is better."""
    precision: float | None = None
    """Share of the edges that the data set's own truth has, 0 to 1; higher is better. Only for data with a truth."""
    recall: float | None = None
    """Share of the true pairs that are edges, 0 to 1; higher is better. Pairs with words outside the codebook count."""
    num_true_edges: int | None = None
    """Pairs that, by the truth, occur `graph.min_count` times or more."""
    vectors: VectorMetrics | None = None
    """For a GloVe file, how many words it has."""


def build_words(vectors: WordVectors, config: GraphParams) -> WordsCodebook:
    """The words codebook: the words with their vectors, and edges of their pairs.

    A pair is an edge when it occurs `config.min_count` times. Weights and mutual information are over all pairs of
    `vectors.vocabulary`, rarer ones included.
    """
    vocabulary = vectors.vocabulary
    counts = _counts(vocabulary.pairs)
    weights, pmi = edge_weights(counts, config.weight), mutual_information(counts)
    kept = vocabulary.pairs.filter(pc.greater_equal(vocabulary.pairs["count"], config.min_count))
    pairs = list(_counts(kept))
    facts = {
        **vectors.facts,
        "pos": vocabulary.pos.model_dump(mode="json"),
        "phrases": vocabulary.phrases.model_dump(mode="json"),
        "weight": config.weight,
        "min_count": config.min_count,
        "num_adjectives": len(vocabulary.adjectives),
        "num_nouns": len(vocabulary.nouns),
        "num_edges": len(pairs),
        "num_pairs_said": vocabulary.num_pairs_said,
    }
    return WordsCodebook(
        list(vocabulary.adjectives),
        list(vocabulary.nouns),
        vectors.adjectives,
        vectors.nouns,
        torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous(),
        torch.tensor([weights[pair] for pair in pairs], dtype=torch.float32),
        facts,
        list(vocabulary.adjectives.values()),
        list(vocabulary.nouns.values()),
        kept["count"].to_pylist(),
        [pmi[pair] for pair in pairs],
        kept["examples"].to_pylist(),
    )


def _counts(pairs: pa.Table) -> dict[tuple[int, int], int]:
    keys = zip(pairs["adjective"].to_pylist(), pairs["noun"].to_pylist(), strict=True)
    return dict(zip(keys, pairs["count"].to_pylist(), strict=True))


def edge_weights(counts: Mapping[tuple[A, A], int], kind: Weight) -> dict[tuple[A, A], float]:
    """Weights by pair: 1 (`binary`), the count (`count`), or positive pointwise mutual information (`pmi`).

    A pair at or below chance weighs 0 by `pmi`; see `mutual_information`.
    """
    if kind == "binary":
        return dict.fromkeys(counts, 1.0)
    if kind == "count":
        return {pair: float(count) for pair, count in counts.items()}
    return {pair: max(0.0, pmi) for pair, pmi in mutual_information(counts).items()}


def graph_metrics(
    codebook: WordsCodebook, vectors: WordVectors, config: GraphParams, truth: Path | None = None
) -> GraphMetrics:
    """What the stage `graph` measures of a codebook that `build_words` made.

    Args:
        codebook: the codebook.
        vectors, config: what it was made of.
        truth: a TRUTH table of the data set's true pairs; None, or no file there: precision and recall are left out.

    Raises:
        ArtifactError: the table is of another spec or version.
    """
    shape = graph_shape(codebook.pairs, len(codebook.adjectives), len(codebook.nouns))
    num_pairs = vectors.vocabulary.num_pairs_said
    known = pc.sum(vectors.vocabulary.pairs["count"]).as_py() or 0
    measured = GraphMetrics(
        **dict(shape),
        num_pairs_said=num_pairs,
        pairs_in_vocabulary=round(known / max(1, num_pairs), 6),
        vectors=vectors.metrics,
    )
    if truth is None or not truth.is_file():
        return measured
    found = {(codebook.adjectives[a], codebook.nouns[n]) for a, n in codebook.pairs}
    table = read_table(truth, TRUTH, ["adjective", "noun", "said_train"])
    true = {
        (row["adjective"], row["noun"]) for row in table.to_pylist() if row["said_train"] >= config.min_count
    }
    right = len(found & true)
    return measured.model_copy(
        update={
            "precision": round(right / max(1, len(found)), 6),
            "recall": round(right / max(1, len(true)), 6),
            "num_true_edges": len(true),
        }
    )
