"""k-means to any K: two searches, several starts, nested orders, checkpoints, any number of ranks.

Lloyd's algorithm on float32 vectors with exact float64 sums. With `torch` the search is exact too, so that the
centroids are the same bytes on any number of ranks; with `faiss` they are on every run of one machine. A run that was
killed continues from the checkpoint of its last iteration and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from vqpipe.artifacts.checkpoints import Found, keeping_previous, recover
from vqpipe.artifacts.spec import TensorSpec
from vqpipe.artifacts.tensors import check_tensors, read_tensors, write_tensors
from vqpipe.errors import MismatchError
from vqpipe.runtime.distributed import all_reduce_sum, barrier, is_main, rank
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.runtime.terminal import progress_bar
from vqpipe.vision.assignment import (
    SEARCH_METHODS,
    Algorithm,
    PreviousAssignment,
    SearchMethod,
    assign,
    relocate,
    squared_distances,
    torch_search,
)
from vqpipe.vision.nested import nested_order
from vqpipe.vision.vectors import (
    TILE,
    RankPart,
    SubsetVectors,
    UnitVectors,
    Vectors,
    check_count,
    gather_ranks,
    grid_for,
    largest_value,
)

Start = Literal["random", "plusplus"]
"""The centroids that k-means starts from."""
CPU = torch.device("cpu")


ROUNDS = 256
"""k-means++ draws K / ROUNDS centroids at once, at least one."""


PULLED = 4
"""Only prefixes of at most K / PULLED are pulled: larger ones are close to k-means of their own without it."""


CHECKPOINT = TensorSpec(
    "kmeans-checkpoint", 1, {"centroids": "F32"}, stage="cluster", about="k-means between two iterations"
)


CurveRow = dict[str, float]
"""One row of the curve: step, objective before the step's update, empty clusters, and how many were refilled."""


@dataclass(frozen=True)
class KMeans:
    """The outcome of k-means: clusters by falling count or, with prefixes, in nested order."""

    centroids: Float32[np.ndarray, "k d"]
    counts: Int64[np.ndarray, " k"]
    """Vectors nearest to each centroid, over all vectors given."""
    objective: float
    """Mean squared Euclidean distance of a vector to its nearest centroid, over all vectors, in float64."""
    rows: tuple[CurveRow, ...]
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
            see `order_and_measure`.
        device: where distances are computed.
        checkpoint: a file for the state between iterations; a run that finds it continues from there. A damaged one
            is set aside for the one before it.

    Raises:
        MismatchError: K above the number of vectors, or a prefix that is not below K.
        DataError: vectors that are not finite, or all the same, or of no direction where that is needed.
        SetupError: faiss is wanted and not installed.
    """
    check_count(vectors, num_clusters)
    check_prefixes(prefixes, num_clusters)
    if spherical:
        vectors = UnitVectors(vectors)
    whole = RankPart.own(vectors, device)
    largest = largest_value(whole, num_clusters)
    sample = subsample(vectors, num_clusters, max_points_per_centroid, seed)
    part, method = RankPart.own(sample, device), SEARCH_METHODS[algorithm]
    if checkpoint is not None and has_checkpoint(checkpoint, device):
        state = LloydState.load(checkpoint, device)
    else:
        state = LloydState(_start(part, num_clusters, start, seed))
        if checkpoint is not None and is_main():
            state.save(checkpoint)
    barrier()
    before = lloyd(
        part, state, method, largest, num_iterations=num_iterations, tolerance=tolerance, spherical=spherical,
        checkpoint=checkpoint,
    )  # fmt: skip
    if sample is not vectors:
        before = None
    found = order_and_measure(
        whole, state.centroids, method, largest, prefixes, pull, spherical=spherical, before=before
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
    return SubsetVectors(vectors, np.sort(rows))


def _start(part: RankPart, num_clusters: int, start: Start | np.ndarray, seed: int) -> Float32[Tensor, "k d"]:
    if isinstance(start, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(start, dtype=np.float32)).to(part.device)
    return (random_start if start == "random" else plusplus_start)(part, num_clusters, seed)


def random_start(part: RankPart, num_clusters: int, seed: int) -> Float32[Tensor, "k d"]:
    """Different vectors, each with the same probability."""
    rng = numpy_rng(seed, "kmeans", "start")
    return part.rows(rng.choice(len(part.vectors), num_clusters, replace=False))


def plusplus_start(part: RankPart, num_clusters: int, seed: int) -> Float32[Tensor, "k d"]:
    """k-means++ (Arthur and Vassilvitskii 2007): each vector with probability in proportion to its squared
    distance to the nearest centroid drawn before.

    Exact for K below 2 * `ROUNDS`. Above that every round draws K / `ROUNDS` centroids at once, as k-means|| does
    (Bahmani et al. 2012), but without its clustering of the drawn ones; the cost of all rounds is that of one
    iteration. Where fewer than K vectors are different, the rest are vectors not yet drawn.
    """
    rng = numpy_rng(seed, "kmeans", "plusplus")
    chosen = [int(rng.integers(len(part.vectors)))]
    least = torch.full((len(part),), torch.inf, dtype=torch.float64, device=part.device)
    fresh = part.rows(np.array(chosen))
    batches = [fresh]
    while len(chosen) < num_clusters:
        _lower_distances(part, least, fresh)
        wanted = min(max(1, num_clusters // ROUNDS), num_clusters - len(chosen))
        drawn = _draw(part, least, wanted, rng)
        if not drawn:
            taken = set(chosen)
            drawn = [n for n in range(len(part.vectors)) if n not in taken][: num_clusters - len(chosen)]
        chosen += drawn
        fresh = part.rows(np.array(drawn))
        batches.append(fresh)
    return torch.cat(batches)


def _lower_distances(part: RankPart, least: Float64[Tensor, " n"], fresh: Float32[Tensor, "m d"]) -> None:
    """Lower the squared distances to the nearest centroid by new centroids, in place."""
    search = torch_search(fresh)

    def work(_: int, tile: Tensor) -> Tensor:
        nearest = fresh if len(fresh) == 1 else fresh[search(tile)]
        return squared_distances(tile, nearest.expand_as(tile))

    for start, squares in part.map(work):
        own = least[start : start + len(squares)]
        torch.minimum(own, squares, out=own)


def _draw(part: RankPart, least: Float64[Tensor, " n"], wanted: int, rng: np.random.Generator) -> list[int]:
    """Up to `wanted` different vector numbers, with probability in proportion to `least`; none if all are 0."""
    zero = torch.zeros(1, dtype=torch.float64, device=least.device)
    largest = float(gather_ranks(torch.cat([zero, least]).max()).max())
    weights = (least * grid_for(largest, len(part.vectors))).round_().cumsum(0)
    totals = gather_ranks(torch.cat([zero, weights])[-1]).cpu()
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


@dataclass
class LloydState:
    """The state between two iterations; it is what a checkpoint contains."""

    centroids: Float32[Tensor, "k d"]
    rows: list[CurveRow] = field(default_factory=list)
    done: bool = False

    def save(self, path: Path) -> None:
        """Write the checkpoint; atomic, with a checksum. The one at `path` becomes the one before."""
        facts = {"rows": self.rows, "done": self.done}
        with keeping_previous(path):
            write_tensors(path, CHECKPOINT, {"centroids": self.centroids}, facts, sealed=True)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> LloydState:
        """Read a checkpoint of the same run."""
        tensors, facts = read_tensors(path, CHECKPOINT)
        return cls(tensors["centroids"].to(device), facts["rows"], facts["done"])


def has_checkpoint(checkpoint: Path | None, device: torch.device) -> bool:
    """Whether there is a checkpoint to continue from, after damaged ones were set aside; the same on all ranks."""
    return checkpoint is not None and (
        recover(checkpoint, lambda path: check_tensors(path, CHECKPOINT), device) != Found.NOTHING
    )


def lloyd(
    part: RankPart,
    state: LloydState,
    method: SearchMethod,
    largest: float,
    *,
    num_iterations: int,
    tolerance: float | None,
    spherical: bool,
    checkpoint: Path | None,
) -> PreviousAssignment | None:
    """Iterate until `num_iterations`, the stop rule, or centroids that do not move; `state` is changed in place.

    Returns the last assignment and the centroids it was made with, None where no iteration was left to do.

    Args:
        part: this rank's vectors.
        state: start, or a loaded checkpoint.
        method: what searches for the nearest centroids.
        largest: the largest absolute value among the vectors of all ranks.
        num_iterations: at most as many.
        tolerance: stop after an iteration whose objective is lower than the one before by less than this part of
            it; None never does.
        spherical: scale the centroids to unit length after each iteration.
        checkpoint: the file to write after each iteration, or None.
    """
    before: PreviousAssignment | None = None
    with progress_bar("k-means", num_iterations) as bar:
        bar.advance(len(state.rows))
        while not state.done and len(state.rows) < num_iterations:
            found = assign(part, state.centroids, method, largest, before)
            empty = int((found.counts == 0).sum())
            means = found.means
            refilled = relocate(part, found, state.centroids)
            if refilled:
                means = found.means_of(state.centroids)
            if spherical:
                means = unit_rows(means, state.centroids)
            last = state.rows[-1]["objective"] if state.rows else None
            row = {
                "step": len(state.rows) + 1,
                "objective": found.objective,
                "empty": empty,
                "refilled": refilled,
            }
            state.rows.append(row)
            slow = last is not None and tolerance is not None and last - found.objective < tolerance * last
            state.done = slow or bool(torch.equal(means, state.centroids))
            before = found, state.centroids
            state.centroids = means
            if checkpoint is not None and is_main():
                state.save(checkpoint)
            bar.advance(1, f"objective {found.objective:.5g}")
    return before


def unit_rows(means: Float32[Tensor, "k d"], before: Float32[Tensor, "k d"]) -> Float32[Tensor, "k d"]:
    """Means scaled to unit length; a mean of zero stays what it was before."""
    wide = means.double()
    norms = wide.square().sum(dim=1, keepdim=True).sqrt()
    return torch.where(norms > 0, (wide / norms.clamp(min=1e-300)).float(), before)


def order_and_measure(
    whole: RankPart,
    centroids: Float32[Tensor, "k d"],
    method: SearchMethod,
    largest: float,
    prefixes: Sequence[int],
    pull: float,
    *,
    spherical: bool = False,
    before: PreviousAssignment | None = None,
) -> KMeans:
    """Put centroids in order and measure them, and each prefix of them, over all vectors.

    Without prefixes they come by falling count, equal counts in the given order. With prefixes they come in nested
    order, and those of the smallest prefix k are moved by `pull` times the way to the mean of the vectors nearest
    to them among the first k; then those that the next prefix adds, and so on, up to prefixes of K / `PULLED`. A
    prefix's excess over k-means of its own falls by about (1 - pull)^2; the whole codebook's objective rises a
    little, by `pull`^2 times the moved centroids' part of the vectors. With `pull` 0 the whole codebook is the one
    that was given.
    """
    found = assign(whole, centroids, method, largest, before)
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
            means = assign(whole, centroids[:high], method, largest).means
            moved = torch.lerp(centroids[low:high], means[low:high], pull)
            centroids[low:high] = unit_rows(moved, centroids[low:high]) if spherical else moved
        found = assign(whole, centroids, method, largest, unmoved)
        objective, counts = found.objective, found.counts.cpu().numpy()
    measured = tuple((k, assign(whole, centroids[:k], method, largest).objective) for k in rising)
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
