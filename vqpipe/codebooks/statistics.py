"""Statistics of a modifying graph: how dense it is, how it hangs together, and how many neighbours words have."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import log
from typing import Any, TypeVar

import numpy as np

Pairs = Sequence[tuple[int, int]]
"""(adjective, noun) indices, each pair once."""
A = TypeVar("A", bound=Hashable)
B = TypeVar("B", bound=Hashable)

QUANTILES = {"quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "ninety_percent": 0.9}


def degrees(indices: Iterable[int], num_words: int) -> np.ndarray:
    """How many edges each word has: int64 (num_words,), from the edges' ends on its side."""
    return np.bincount(np.fromiter(indices, np.int64), minlength=num_words)


def components(pairs: Pairs, num_adjectives: int, num_nouns: int) -> np.ndarray:
    """Words in each connected component, falling: int64; a word without an edge is a component of one."""
    parent = list(range(num_adjectives + num_nouns))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for adjective, noun in pairs:
        parent[root(adjective)] = root(num_adjectives + noun)
    sizes = np.bincount([root(node) for node in range(len(parent))], minlength=1)
    return np.sort(sizes[sizes > 0])[::-1]


def graph_statistics(pairs: Pairs, num_adjectives: int, num_nouns: int) -> dict[str, Any]:
    """Size and shape of a bipartite graph, for metrics.

    `density` is the share of all adjective-noun pairs that are edges; `num_components` counts connected components
    of two words or more, and `largest_component` is the share of all words that the largest of them holds;
    `isolated_*` have no edge; `degree` has, by class, the mean, some quantiles and the maximum over all words.
    """
    sides = {"adjectives": num_adjectives, "nouns": num_nouns}
    counts = {
        name: degrees((pair[side] for pair in pairs), number)
        for side, (name, number) in enumerate(sides.items())
    }
    sizes = components(pairs, num_adjectives, num_nouns)
    joined = sizes[sizes > 1]
    return {
        "num_adjectives": num_adjectives,
        "num_nouns": num_nouns,
        "num_edges": len(pairs),
        "density": round(len(pairs) / max(1, num_adjectives * num_nouns), 6),
        "num_components": len(joined),
        "largest_component": round(int(joined[0]) / int(sizes.sum()), 6) if len(joined) else 0.0,
        "isolated_adjectives": int((counts["adjectives"] == 0).sum()),
        "isolated_nouns": int((counts["nouns"] == 0).sum()),
        "degree": {name: _spread(values) for name, values in counts.items()},
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    quantiles = np.quantile(values, list(QUANTILES.values()))
    return {
        "mean": round(float(values.mean()), 4),
        **{name: round(value, 4) for name, value in zip(QUANTILES, quantiles.tolist(), strict=True)},
        "max": int(values.max()),
    }


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
