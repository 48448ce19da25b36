"""The nearest centroid of every vector, and the sums and counts that make the next centroids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from vqpipe.codebooks.search import searcher
from vqpipe.errors import SetupError
from vqpipe.runtime.distributed import all_reduce_sum, local_rank
from vqpipe.vision.vectors import RankPart, exact_mean, gather_ranks, grid_for

Algorithm = Literal["faiss", "torch"]
"""What searches for the nearest centroid."""
_PIECE, _DEVICE_PIECE = 1 << 16, 1 << 22
"""Values whose differences exist in float64 at once, on a CPU and elsewhere."""


INCREMENTAL_BELOW = 0.9
"""Part of a whole search's distances below which `IncrementalSearch` is used."""


Search = Callable[[Float32[Tensor, "t d"]], Int64[Tensor, " t"]]
"""Nearest centroids of a tile of vectors."""


@dataclass(frozen=True)
class SearchMethod:
    """A way to search among centroids."""

    prepare: Callable[[Float32[Tensor, "k d"]], Search]
    """The search among some centroids."""
    exact: bool
    """Whether its answers are those of the definition, so that earlier ones can be reused."""


def torch_search(centroids: Float32[Tensor, "k d"]) -> Search:
    """Exact search (`vqpipe.codebooks.search`): the same answer for any tile, rank and device.

    On CUDA the centroids are prepared once, here, and not for each tile.
    """
    return searcher(centroids)


def faiss_search(centroids: Float32[Tensor, "k d"]) -> Search:
    """faiss's flat search in float32; on this rank's GPU where the installed faiss has one.

    Raises:
        SetupError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise SetupError(
            "cluster.algorithm is faiss, which is not installed",
            run="pip install faiss-cpu, or algorithm: torch",
        ) from error
    index: Any = faiss.IndexFlatL2(centroids.shape[1])
    if centroids.device.type == "cuda" and hasattr(faiss, "StandardGpuResources"):
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), local_rank(), index)
    index.add(centroids.cpu().numpy())

    def search(tile: Float32[Tensor, "t d"]) -> Int64[Tensor, " t"]:
        faiss.omp_set_num_threads(torch.get_num_threads())
        found: np.ndarray = index.search(tile.cpu().numpy(), 1)[1][:, 0]
        # faiss answers -1 for a distance that overflows; there is none among checked vectors.
        return torch.from_numpy(found).to(tile.device)

    return search


SEARCH_METHODS: dict[Algorithm, SearchMethod] = {
    "torch": SearchMethod(torch_search, exact=True), "faiss": SearchMethod(faiss_search, exact=False),
}  # fmt: skip


@dataclass(frozen=True)
class Assignment:
    """What one pass over the vectors finds; labels and squares are of this rank's part, the rest are of all vectors."""

    labels: Int64[Tensor, " n"]
    squares: Float64[Tensor, " n"]
    """Squared distance of each vector to its centroid."""
    objective: float
    """Mean squared distance."""
    counts: Float64[Tensor, " k"]
    means: Float32[Tensor, "k d"]
    """Of the vectors nearest to each centroid; the centroid itself where there are none."""
    scaled_sums: Float64[Tensor, "k d"]
    grid: float

    def means_of(self, centroids: Float32[Tensor, "k d"]) -> Float32[Tensor, "k d"]:
        """The means after sums and counts were changed."""
        return _means(self.scaled_sums, self.counts, self.grid, centroids)


PreviousAssignment = tuple[Assignment, Float32[Tensor, "k d"]]
"""An assignment and the centroids it was made with."""


class IncrementalSearch:
    """The search after some centroids moved and others did not: exact, and short where few moved.

    A vector whose own centroid stayed is searched for among the moved ones only: of those that stayed none can have
    become the nearest. (Kaukoranta, Franti and Nevalainen 2000 call the moved ones active.)
    """

    def __init__(
        self, before: Assignment, old: Tensor, new: Tensor, prepare: Callable[[Tensor], Search]
    ) -> None:
        self.labels, self.squares, self.new = before.labels, before.squares, new
        self.moved = (old != new).any(dim=1)
        self.active = self.moved.nonzero()[:, 0]
        self.all = prepare(new)
        self.some = prepare(new[self.active]) if len(self.active) else None

    def is_cheaper(self) -> bool:
        """Whether it computes clearly fewer distances than a search among all; each rank answers for itself."""
        own = float(self.moved[self.labels].float().mean()) if len(self.labels) else 0.0
        return own + (1 - own) * float(self.moved.float().mean()) < INCREMENTAL_BELOW

    def find(self, start: int, tile: Float32[Tensor, "t d"]) -> Int64[Tensor, " t"]:
        """The nearest centroids of the tile that begins at `start`; of equal ones the lowest."""
        part = slice(start, start + len(tile))
        found, squares = self.labels[part].clone(), self.squares[part]
        whole = self.moved[found]
        if self.some is not None and not bool(whole.all()):
            rest = (~whole).nonzero()[:, 0]
            other = self.active[self.some(tile[rest])]
            distances = squared_distances(tile[rest], self.new[other])
            better = (distances < squares[rest]) | ((distances == squares[rest]) & (other < found[rest]))
            found[rest] = torch.where(better, other, found[rest])
        if bool(whole.any()):
            found[whole] = self.all(tile[whole])
        return found


def assign(
    part: RankPart,
    centroids: Float32[Tensor, "k d"],
    method: SearchMethod,
    largest: float,
    before: PreviousAssignment | None = None,
) -> Assignment:
    """Assign every vector to its nearest centroid (squared Euclidean distance).

    Args:
        part: this rank's vectors.
        centroids: the same on all ranks.
        method: what searches.
        largest: the largest absolute value among the vectors of all ranks.
        before: the last assignment of the same vectors and its centroids; saves work, changes no result.
    """
    total = len(part.vectors)
    grid = grid_for(largest, total)
    find = _finder(centroids, method, before)
    where = part.device
    labels = torch.empty(len(part), dtype=torch.int64, device=where)
    squares = torch.empty(len(part), dtype=torch.float64, device=where)
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=where)

    def work(start: int, tile: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = find(start, tile)
        return found, squared_distances(tile, centroids[found]), (tile * grid).round_().double()

    for start, (found, square, terms) in part.map(work):
        labels[start : start + len(found)] = found
        squares[start : start + len(found)] = square
        sums.index_add_(0, found, terms)
    counts = all_reduce_sum(torch.bincount(labels, minlength=len(centroids)).double())
    sums = all_reduce_sum(sums)
    objective = exact_mean(squares, total)
    return Assignment(
        labels, squares, objective, counts, _means(sums, counts, grid, centroids), sums, grid
    )  # fmt: skip


def _finder(
    centroids: Tensor, method: SearchMethod, before: PreviousAssignment | None
) -> Callable[[int, Tensor], Tensor]:
    if before is not None and method.exact:
        incremental = IncrementalSearch(*before, centroids, method.prepare)
        if incremental.is_cheaper():
            return incremental.find
    search = method.prepare(centroids)
    return lambda _, tile: search(tile)


def squared_distances(
    tile: Float32[Tensor, "t d"], centroids: Float32[Tensor, "t d"]
) -> Float64[Tensor, " t"]:
    """Squared distance of each vector to the centroid in the same row, in float64 on the float32 values.

    From the difference, not from |x|^2 - 2 x.c + |c|^2, which loses digits where x and c are close. In pieces that
    fit a cache: fresh memory for the whole costs several times as much as the arithmetic. Elsewhere than on a CPU in
    larger ones, since each takes several launches.
    """
    piece = _PIECE if tile.device.type == "cpu" else _DEVICE_PIECE
    rows = max(1, piece // tile.shape[1])
    found = torch.empty(len(tile), dtype=torch.float64, device=tile.device)
    for start in range(0, len(tile), rows):
        part = slice(start, start + rows)
        torch.sum((tile[part].double() - centroids[part].double()).square_(), dim=1, out=found[part])
    return found


def _means(sums: Tensor, counts: Tensor, grid: float, centroids: Tensor) -> Tensor:
    filled = counts > 0
    means = (sums / (grid * counts.clamp(min=1))[:, None]).float()
    return torch.where(filled[:, None], means, centroids)


def relocate(part: RankPart, found: Assignment, centroids: Float32[Tensor, "k d"]) -> int:
    """Give each empty cluster a vector that is far from its centroid, in place; return how many got one.

    The empty clusters, by their number, take the vectors with the largest squared distance, equal ones by their
    number; a vector that is alone in its cluster stays, and so does one that equals its centroid. The vector
    leaves its cluster's sum. (scikit-learn's rule; the same on any number of ranks.)
    """
    empty = (found.counts == 0).nonzero()[:, 0].tolist()
    if not empty:
        return 0
    most = min(len(part.vectors), 2 * len(empty) + 64)
    order = torch.argsort(found.squares, descending=True, stable=True)[:most]
    table = torch.full((4, most), -1.0, dtype=torch.float64, device=part.device)
    table[0, : len(order)] = found.squares[order]
    table[1, : len(order)] = (order + part.first).double()
    table[2, : len(order)] = found.labels[order].double()
    squares, numbers, labels = gather_ranks(table).transpose(0, 1).flatten(1)[:3].cpu().numpy()
    counts = found.counts.cpu().numpy().copy()
    takers: list[tuple[int, int, int]] = []
    for at in np.lexsort((numbers, -squares))[:most]:
        label = int(labels[at])
        if len(takers) == len(empty) or squares[at] <= 0:
            break
        if counts[label] > 1:
            counts[label] -= 1
            takers.append((empty[len(takers)], int(numbers[at]), label))
    if not takers:
        return 0
    cluster, number, donor = (np.array(column) for column in zip(*takers, strict=True))
    vectors = (part.rows(number) * found.grid).round_().double()
    found.scaled_sums[torch.from_numpy(cluster).to(part.device)] = vectors
    found.scaled_sums.index_add_(0, torch.from_numpy(donor).to(part.device), -vectors)
    counts[cluster] = 1
    found.counts.copy_(torch.from_numpy(counts))
    return len(takers)
