"""Statistics of a modifying graph: how dense it is, its connected components, and how many neighbours words have."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import log
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vqpipe.artifacts.metrics import Metrics

Pairs = Sequence[tuple[int, int]]
"""(adjective, noun) indices, each pair once."""
A = TypeVar("A", bound=Hashable)
B = TypeVar("B", bound=Hashable)

QUANTILES = {"quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "ninety_percent": 0.9}


class Degrees(Metrics):
    """How many neighbours the words of a class have, over all its words; nothing for a class without words."""

    mean: float | None = None
    """0 or more, as all of these."""
    quarter: float | None = None
    """0.25 quantile."""
    median: float | None = None
    """0.5 quantile."""
    three_quarters: float | None = None
    """0.75 quantile."""
    ninety_percent: float | None = None
    """0.9 quantile."""
    max: int | None = None
    """Of the word with the most."""


class DegreesByClass(Metrics):
    """Degrees of the two sides of a modifying graph."""

    adjectives: Degrees
    """Nouns that an adjective modifies."""
    nouns: Degrees
    """Adjectives that modify a noun."""


class GraphStatistics(Metrics):
    """Size and shape of a bipartite graph. None of these is better when higher or lower by itself."""

    num_adjectives: int
    """Words on the one side."""
    num_nouns: int
    """Words on the other side."""
    num_edges: int
    """Pairs that are edges."""
    density: float
    """Share of all adjective-noun pairs that are edges, 0 to 1."""
    num_components: int
    """Connected components of two words or more."""
    largest_component: float
    """Share of all words that are in the largest component, 0 to 1; 0 without edges."""
    isolated_adjectives: int
    """Adjectives without an edge."""
    isolated_nouns: int
    """Nouns without an edge."""
    degree: DegreesByClass
    """How many neighbours words have."""


def degrees(indices: Iterable[int], num_words: int) -> np.ndarray:
    """How many edges each word has: int64 (num_words,), from the edges' ends on its side."""
    return np.bincount(np.fromiter(indices, np.int64), minlength=num_words)


def components(pairs: Pairs, num_adjectives: int, num_nouns: int) -> np.ndarray:
    """Words in each connected component, falling: int64; a word without an edge is a component of one."""
    num_words = num_adjectives + num_nouns
    adjectives, nouns = np.array(pairs, np.int64).reshape(-1, 2).T
    ends = (adjectives, num_adjectives + nouns)
    graph = coo_array((np.ones(len(pairs), bool), ends), shape=(num_words, num_words))
    _, labels = connected_components(graph, directed=False)
    return np.sort(np.bincount(labels))[::-1]


def graph_shape(pairs: Pairs, num_adjectives: int, num_nouns: int) -> GraphStatistics:
    """Size and shape of the graph with these edges."""
    sides = {"adjectives": num_adjectives, "nouns": num_nouns}
    counts = {
        name: degrees((pair[side] for pair in pairs), number)
        for side, (name, number) in enumerate(sides.items())
    }
    sizes = components(pairs, num_adjectives, num_nouns)
    joined = sizes[sizes > 1]
    return GraphStatistics(
        num_adjectives=num_adjectives,
        num_nouns=num_nouns,
        num_edges=len(pairs),
        density=round(len(pairs) / max(1, num_adjectives * num_nouns), 6),
        num_components=len(joined),
        largest_component=round(int(joined[0]) / int(sizes.sum()), 6) if len(joined) else 0.0,
        isolated_adjectives=int((counts["adjectives"] == 0).sum()),
        isolated_nouns=int((counts["nouns"] == 0).sum()),
        degree=DegreesByClass(adjectives=_degrees(counts["adjectives"]), nouns=_degrees(counts["nouns"])),
    )


def _degrees(values: np.ndarray) -> Degrees:
    if not len(values):
        return Degrees()
    quantiles = np.quantile(values, list(QUANTILES.values())).tolist()
    return Degrees(
        mean=round(float(values.mean()), 4),
        max=int(values.max()),
        **{name: round(value, 4) for name, value in zip(QUANTILES, quantiles, strict=True)},
    )


def mutual_information(counts: Mapping[tuple[A, B], int]) -> dict[tuple[A, B], float]:
    """Pointwise mutual information of each pair in nats: log p(a, n) / (p(a) p(n)), negative below chance.

    p(a, n) = count / all counts; p(a) and p(n) are its margins.
    """
    of_left: dict[A, int] = {}
    of_right: dict[B, int] = {}
    for (left, right), count in counts.items():
        of_left[left] = of_left.get(left, 0) + count
        of_right[right] = of_right.get(right, 0) + count
    total = sum(of_left.values())
    return {
        (left, right): log(count * total / (of_left[left] * of_right[right]))
        for (left, right), count in counts.items()
    }
