"""k-means to any K: one front for both searches, all starts, nested orders and any number of ranks.

Lloyd's algorithm on float32 vectors with exact float64 sums. With `torch` the search is exact too, so that the
centroids are the same bytes on any number of ranks; with `faiss` they are on every run of one machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from vqpipe.errors import MismatchError
from vqpipe.params.cluster import Algorithm, Start
from vqpipe.runtime.distributed import all_reduce_sum, barrier, is_main
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.vision.assignment import ENGINES, Before, Engine, assign
from vqpipe.vision.checks import check_count, largest_value
from vqpipe.vision.lloyd import Row, State, lloyd, resumable, unit
from vqpipe.vision.nested import nested_order
from vqpipe.vision.starts import plusplus_start, random_start
from vqpipe.vision.vectors import Chosen, Part, Unit, Vectors

CPU = torch.device("cpu")
PULLED = 4
"""Only prefixes of at most K / PULLED are pulled: larger ones are close to k-means of their own without it."""


@dataclass(frozen=True)
class KMeans:
    """The outcome of k-means: clusters by falling count or, with prefixes, in nested order."""

    centroids: Float32[np.ndarray, "k d"]
    counts: Int64[np.ndarray, " k"]
    """Vectors nearest to each centroid, over all vectors given."""
    objective: float
    """Mean squared Euclidean distance of a vector to its nearest centroid, over all vectors, in float64."""
    rows: tuple[Row, ...]
    """The curve: one row for each iteration, over the vectors trained on."""
    num_trained_on: int
    """Vectors in the subsample that the centroids were fitted to."""
    prefixes: tuple[tuple[int, float], ...] = ()
    """(k, objective of the first k centroids over all vectors), by rising k."""
    objective_before_pull: float | None = None
    """The objective before rows of prefixes were pulled to the means of their vectors."""

    @property
    def history(self) -> tuple[float, ...]:
        """The objective before each iteration's update, over the vectors trained on."""
        return tuple(row["objective"] for row in self.rows)

    @property
    def num_empty(self) -> int:
        """Clusters that no vector is nearest to."""
        return int((self.counts == 0).sum())


def kmeans(
    vectors: Vectors,
    num_clusters: int,
    num_iterations: int,
    seed: int,
    *,
    algorithm: Algorithm = "torch",
    start: Start | Float32[np.ndarray, "k d"] = "random",
    tolerance: float | None = None,
    max_points_per_centroid: int | None = None,
    spherical: bool = False,
    prefixes: Sequence[int] = (),
    pull: float = 0.0,
    device: torch.device = CPU,
    checkpoint: Path | None = None,
) -> KMeans:
    """Cluster vectors by squared Euclidean distance.

    Under torchrun each rank calls this with the same arguments and works on its own part of the vectors.

    Args:
        vectors: (n, d) float32 or float16, finite; a matrix, or anything that gives slices of one.
        num_clusters: K, at most n.
        num_iterations: Lloyd iterations, at most.
        seed: of the subsample and the start.
        algorithm: what searches for the nearest centroids.
        start: `random` (different vectors), `plusplus` (k-means++), or the K centroids to start from.
        tolerance: stop after an iteration that lowered the objective by less than this part of it.
        max_points_per_centroid: fit to a random subsample of at most K times as many vectors; None uses all.
        spherical: scale vectors and centroids to unit length.
        prefixes: sizes k < K at which the first k centroids are to be a codebook too; see `nested_order`.
        pull: 0 to 1, how far a prefix's centroids move to the means of the vectors nearest to them in that prefix;
            see `ordered`.
        device: where distances are computed.
        checkpoint: a file for the state between iterations; a run that finds it goes on from there. A damaged one is
            set aside for the one before it.

    Raises:
        MismatchError: K above the number of vectors, or a prefix that is not below K.
        DataError: vectors that are not finite, or all the same, or of no direction where that is needed.
        SetupError: faiss is wanted and not installed.
    """
    check_count(vectors, num_clusters)
    check_prefixes(prefixes, num_clusters)
    if spherical:
        vectors = Unit(vectors)
    whole = Part.own(vectors, device)
    largest = largest_value(whole, num_clusters)
    sample = subsample(vectors, num_clusters, max_points_per_centroid, seed)
    part, engine = Part.own(sample, device), ENGINES[algorithm]
    if checkpoint is not None and resumable(checkpoint, device):
        state = State.load(checkpoint, device)
    else:
        state = State(_start(part, num_clusters, start, seed))
        if checkpoint is not None and is_main():
            state.save(checkpoint)
    barrier()
    before = lloyd(
        part, state, engine, largest, num_iterations=num_iterations, tolerance=tolerance, spherical=spherical,
        checkpoint=checkpoint,
    )  # fmt: skip
    if sample is not vectors:
        before = None
    found = ordered(
        whole, state.centroids, engine, largest, prefixes, pull, spherical=spherical, before=before
    )  # fmt: skip
    return replace(found, rows=tuple(state.rows), num_trained_on=len(sample))


def check_prefixes(prefixes: Sequence[int], num_clusters: int) -> None:
    """Raise `MismatchError` unless all prefixes are below K."""
    if prefixes and not 1 <= min(prefixes) <= max(prefixes) < num_clusters:
        raise MismatchError(
            "cluster.prefixes are not all smaller than cluster.num_clusters",
            found=f"prefixes {list(prefixes)}, num_clusters {num_clusters}",
            expected=f"sizes from 1 to {num_clusters - 1}; the whole codebook needs no entry",
        )


def subsample(vectors: Vectors, num_clusters: int, points_per_centroid: int | None, seed: int) -> Vectors:
    """At most K times `points_per_centroid` vectors, drawn without replacement, in their order."""
    most = len(vectors) if points_per_centroid is None else points_per_centroid * num_clusters
    if most >= len(vectors):
        return vectors
    rows = numpy_rng(seed, "kmeans", "subsample").choice(len(vectors), most, replace=False, shuffle=False)
    return Chosen(vectors, np.sort(rows))


def _start(part: Part, num_clusters: int, start: Start | np.ndarray, seed: int) -> Float32[Tensor, "k d"]:
    if isinstance(start, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(start, dtype=np.float32)).to(part.device)
    return (random_start if start == "random" else plusplus_start)(part, num_clusters, seed)


def ordered(
    whole: Part,
    centroids: Float32[Tensor, "k d"],
    engine: Engine,
    largest: float,
    prefixes: Sequence[int],
    pull: float,
    *,
    spherical: bool = False,
    before: Before | None = None,
) -> KMeans:
    """Put centroids in order and measure them, and each prefix of them, over all vectors.

    Without prefixes they come by falling count, equal counts in the given order. With prefixes they come in nested
    order, and those of the smallest prefix k are moved by `pull` times the way to the mean of the vectors nearest
    to them among the first k; then those that the next prefix adds, and so on, up to prefixes of K / `PULLED`. A
    prefix's excess over k-means of its own falls by about (1 - pull)^2; the whole codebook's objective rises a
    little, by `pull`^2 times the moved centroids' part of the vectors. With `pull` 0 the whole codebook is the one
    that was given.
    """
    found = assign(whole, centroids, engine, largest, before)
    counts = found.counts.cpu().numpy()
    if not prefixes:
        order = np.argsort(-counts, kind="stable")
        return _outcome(centroids.cpu().numpy()[order], counts[order], found.objective)
    rising, before_pull = sorted(set(prefixes)), None
    order = _nested(centroids, counts)
    rows = torch.from_numpy(order).to(centroids.device)
    centroids = centroids[rows]
    objective, counts = found.objective, counts[order]
    pulled = [k for k in rising if k * PULLED <= len(centroids)]
    if pull > 0 and pulled:
        before_pull = found.objective
        unmoved = replace(found, labels=rows.argsort()[found.labels]), centroids.clone()
        for low, high in zip([0, *pulled], pulled, strict=False):
            means = assign(whole, centroids[:high], engine, largest).means
            moved = torch.lerp(centroids[low:high], means[low:high], pull)
            centroids[low:high] = unit(moved, centroids[low:high]) if spherical else moved
        found = assign(whole, centroids, engine, largest, unmoved)
        objective, counts = found.objective, found.counts.cpu().numpy()
    measured = tuple((k, assign(whole, centroids[:k], engine, largest).objective) for k in rising)
    outcome = _outcome(centroids.cpu().numpy(), counts, objective)
    return replace(outcome, prefixes=measured, objective_before_pull=before_pull)


def _nested(centroids: Float32[Tensor, "k d"], counts: Float64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
    """The nested order, made by rank 0 for all."""
    order = torch.zeros(len(centroids), dtype=torch.float64, device=centroids.device)
    if is_main():
        order += torch.from_numpy(nested_order(centroids, counts)).to(order)
    return all_reduce_sum(order).cpu().numpy().astype(np.int64)


def _outcome(
    centroids: Float32[np.ndarray, "k d"], counts: Float64[np.ndarray, " k"], objective: float
) -> KMeans:
    return KMeans(centroids, counts.astype(np.int64), objective, (), 0)
