"""The modifying graph: which adjective of the vocabulary modifies which noun, how often, at what weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path
from typing import Any

from vqpipe.artifacts.specs.dataset import TRUTH
from vqpipe.artifacts.tables import read_table
from vqpipe.params.graph import GraphParams, PhraseParams
from vqpipe.params.pos import PosParams
from vqpipe.runtime.progress import track
from vqpipe.text.chunks import Chunk, map_captions
from vqpipe.text.phrases import pairs_of
from vqpipe.text.pos import tagger
from vqpipe.text.vocabulary import Vocabulary

NUM_EXAMPLES = 3
"""Caption ids that an edge keeps, so that a user can ask why it exists."""

Pair = tuple[str, str]
"""(adjective, noun in the singular)."""


@dataclass(frozen=True)
class Edge:
    """An adjective that modifies a noun: indices into the vocabulary, count, weight, first captions' ids."""

    adjective: int
    noun: int
    count: int
    weight: float
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Edges by (adjective, noun) index; how many pairs the captions say, in all and within the vocabulary."""

    edges: tuple[Edge, ...]
    num_pairs_said: int
    num_pairs_known: int


@dataclass
class _Pairs:
    counts: Counter[Pair]
    examples: dict[Pair, list[str]]

    def note(self, pair: Pair, count: int, ids: Iterable[str]) -> None:
        self.counts[pair] += count
        known = self.examples.setdefault(pair, [])
        for caption_id in ids:
            if len(known) < NUM_EXAMPLES and caption_id not in known:
                known.append(caption_id)


def _count_pairs(chunk: Chunk, pos: PosParams, phrases: PhraseParams) -> _Pairs:
    backend, found = tagger(pos), _Pairs(Counter(), {})
    for caption_id, caption in chunk:
        for pair in pairs_of(backend.tag(caption), backend, phrases):
            found.note(pair, 1, (caption_id,))
    return found


def build_graph(captions: Iterable[tuple[str, str]], vocabulary: Vocabulary, config: GraphParams) -> Graph:
    """Count the modifier pairs of (id, caption) pairs and make edges of those between vocabulary words.

    Parts of speech come from the backend that made the vocabulary. A pair is an edge when it is said
    `config.min_count` times. Memory grows with the number of distinct pairs.
    """
    adjectives = {word: index for index, word in enumerate(vocabulary.adjectives)}
    nouns = {word: index for index, word in enumerate(vocabulary.nouns)}
    work = partial(_count_pairs, pos=vocabulary.pos, phrases=config.phrases)
    total, said = _Pairs(Counter(), {}), 0
    for found in track(map_captions(work, captions), "counting pairs"):
        said += found.counts.total()
        for pair, count in found.counts.items():
            if pair[0] in adjectives and pair[1] in nouns:
                total.note(pair, count, found.examples[pair])
    weights = edge_weights(total.counts, config.weight)
    edges = [
        Edge(adjectives[pair[0]], nouns[pair[1]], count, weights[pair], tuple(total.examples[pair]))
        for pair, count in total.counts.items()
        if count >= config.min_count
    ]
    return Graph(
        tuple(sorted(edges, key=lambda edge: (edge.adjective, edge.noun))), said, total.counts.total()
    )


def edge_weights(counts: Mapping[Pair, int], kind: str) -> dict[Pair, float]:
    """Weights by pair: 1 (`binary`), the count (`count`), or positive pointwise mutual information (`pmi`).

    For `pmi`, in nats, p(a, n) = count / all counts, and p(a), p(n) are its margins; a pair at or below
    chance weighs 0.
    """
    if kind == "binary":
        return dict.fromkeys(counts, 1.0)
    if kind == "count":
        return {pair: float(count) for pair, count in counts.items()}
    of_adjective, of_noun = Counter[str](), Counter[str]()
    for (adjective, noun), count in counts.items():
        of_adjective[adjective] += count
        of_noun[noun] += count
    total = of_noun.total()
    return {
        (adjective, noun): max(0.0, log(count * total / (of_adjective[adjective] * of_noun[noun])))
        for (adjective, noun), count in counts.items()
    }


def graph_metrics(graph: Graph, vocabulary: Vocabulary) -> dict[str, Any]:
    """Size and shape: edges, density (share of all adjective-noun pairs), words without an edge."""
    num_adjectives, num_nouns = len(vocabulary.adjectives), len(vocabulary.nouns)
    return {
        "num_adjectives": num_adjectives,
        "num_nouns": num_nouns,
        "num_edges": len(graph.edges),
        "density": round(len(graph.edges) / (num_adjectives * num_nouns), 6),
        "isolated_adjectives": num_adjectives - len({edge.adjective for edge in graph.edges}),
        "isolated_nouns": num_nouns - len({edge.noun for edge in graph.edges}),
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
