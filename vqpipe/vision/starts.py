"""Where k-means starts, and the codebooks that need no k-means: vectors drawn, or drawn from a normal distribution."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from vqpipe.runtime.distributed import all_reduce_sum, rank
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.vision.assignment import squared, torch_search
from vqpipe.vision.vectors import TILE, Part, Vectors, gather, grid_for

ROUNDS = 256
"""k-means++ draws K / ROUNDS centroids at once, at least one."""


def random_start(part: Part, num_clusters: int, seed: int) -> Float32[Tensor, "k d"]:
    """Different vectors, each with the same probability."""
    rng = numpy_rng(seed, "kmeans", "start")
    return part.rows(rng.choice(len(part.vectors), num_clusters, replace=False))


def plusplus_start(part: Part, num_clusters: int, seed: int) -> Float32[Tensor, "k d"]:
    """k-means++ (Arthur and Vassilvitskii 2007): each vector with probability in proportion to its squared
    distance to the nearest centroid drawn before.

    Exact for K below 2 * `ROUNDS`. Above that every round draws K / `ROUNDS` centroids at once, as k-means|| does
    (Bahmani et al. 2012), but without its clustering of the drawn ones; the cost of all rounds is that of one
    iteration. Where the vectors are fewer than K different ones, the rest are vectors not yet drawn.
    """
    rng = numpy_rng(seed, "kmeans", "plusplus")
    chosen = [int(rng.integers(len(part.vectors)))]
    least = torch.full((len(part),), torch.inf, dtype=torch.float64, device=part.device)
    fresh = part.rows(np.array(chosen))
    batches = [fresh]
    while len(chosen) < num_clusters:
        _come_closer(part, least, fresh)
        wanted = min(max(1, num_clusters // ROUNDS), num_clusters - len(chosen))
        drawn = _draw(part, least, wanted, rng)
        if not drawn:
            taken = set(chosen)
            drawn = [n for n in range(len(part.vectors)) if n not in taken][: num_clusters - len(chosen)]
        chosen += drawn
        fresh = part.rows(np.array(drawn))
        batches.append(fresh)
    return torch.cat(batches)


def _come_closer(part: Part, least: Float64[Tensor, " n"], fresh: Float32[Tensor, "m d"]) -> None:
    """Lower the squared distances to the nearest centroid by new centroids, in place."""
    search = torch_search(fresh)

    def work(_: int, tile: Tensor) -> Tensor:
        nearest = fresh if len(fresh) == 1 else fresh[search(tile)]
        return squared(tile, nearest.expand_as(tile))

    for start, squares in part.map(work):
        own = least[start : start + len(squares)]
        torch.minimum(own, squares, out=own)


def _draw(part: Part, least: Float64[Tensor, " n"], wanted: int, rng: np.random.Generator) -> list[int]:
    """Up to `wanted` different vector numbers, with probability in proportion to `least`; none if all are 0."""
    zero = torch.zeros(1, dtype=torch.float64, device=least.device)
    largest = float(gather(torch.cat([zero, least]).max()).max())
    weights = (least * grid_for(largest, len(part.vectors))).round_().cumsum(0)
    totals = gather(torch.cat([zero, weights])[-1]).cpu()
    if not (total := int(totals.sum())):
        return []
    at = torch.from_numpy(rng.integers(total, size=wanted)).double().to(least.device)
    ends = totals.cumsum(0)
    low, high = float(ends[rank()] - totals[rank()]), float(ends[rank()])
    own = (at >= low) & (at < high)
    numbers = torch.zeros(wanted, dtype=torch.float64, device=least.device)
    numbers[own] = (torch.searchsorted(weights, at[own] - low, right=True) + part.first).double()
    return [int(n) for n in torch.unique(all_reduce_sum(numbers)).tolist()]


def normal_vectors(vectors: Vectors, num_clusters: int, seed: int) -> Float32[np.ndarray, "k d"]:
    """Random vectors: each dimension normal, with the vectors' own mean and standard deviation."""
    count, dim = len(vectors), vectors[0:1].shape[1]
    total, squares = np.zeros(dim), np.zeros(dim)
    for start in range(0, count, TILE):
        total += vectors[start : start + TILE].astype(np.float64).sum(axis=0)
    mean = total / count
    for start in range(0, count, TILE):
        squares += np.square(vectors[start : start + TILE].astype(np.float64) - mean).sum(axis=0)
    drawn = numpy_rng(seed, "kmeans", "normal").standard_normal((num_clusters, dim))
    found: Float32[np.ndarray, "k d"] = (mean + np.sqrt(squares / count) * drawn).astype(np.float32)
    return found
