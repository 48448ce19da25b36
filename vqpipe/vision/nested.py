"""An order of the centroids in which the first k are a good codebook of k, for every k.

Reverse greedy deletion, as Chrobak, Kenyon and Young (2006) do for the k-median problem: of the centroids left, the
one goes whose vectors lose least by moving to the next best centroid, and so on down to one. The order is the
reverse of the deletions. A centroid represents the vectors nearest to it, so one deletion's cost is

    sum over i of count[i] * (|c_i - second(i)|^2 - |c_i - first(i)|^2)

over the centroids i (deleted ones too) whose nearest among those left is the one in question.
"""

from __future__ import annotations

import heapq

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from vqpipe.codebooks.search import full_precision
from vqpipe.vision.assignment import squared_distances
from vqpipe.vision.vectors import RankPart

NEIGHBOURS = 24
"""Nearest centroids noted for each."""
REBUILD = 4
"""The neighbours are searched for again whenever the centroids left are fewer by this factor."""
_TILE = 64


def nested_order(
    centroids: Float32[Tensor, "k d"], counts: Float64[np.ndarray, " k"]
) -> Int64[np.ndarray, " k"]:
    """The order that the module describes; equal costs delete the higher index first.

    Cost: about 1.4 K^2 distances and K log K steps of Python.
    """
    return _Deletion(centroids, counts).run()


class _Deletion:
    """The centroids left, and for each centroid a list of the nearest of them with two marks in it."""

    def __init__(self, centroids: Tensor, counts: Float64[np.ndarray, " k"]) -> None:
        self.centroids, self.counts = centroids, counts
        self.left = np.ones(len(centroids), dtype=bool)

    def run(self) -> Int64[np.ndarray, " k"]:
        num = len(self.centroids)
        deleted: list[int] = []
        while num - len(deleted) > 1:
            stop = max(1, (num - len(deleted)) // REBUILD)
            deleted += self._delete_down_to(stop)
        return np.array([int(self.left.argmax()), *reversed(deleted)], dtype=np.int64)

    def _delete_down_to(self, stop: int) -> list[int]:
        """Note neighbours, then delete until `stop` centroids are left; return the deleted in order."""
        alive = np.flatnonzero(self.left)
        self.near, self.far = neighbours(self.centroids, alive, min(NEIGHBOURS, len(alive)))
        num, width = self.near.shape
        self.first, self.second = np.zeros(num, dtype=int), np.ones(num, dtype=int)
        gains = self.counts * (self.far[:, 1] - self.far[:, 0])
        self.cost = np.bincount(self.near[:, 0], gains, num)
        self.users: list[set[int]] = [set() for _ in range(num)]
        for place in (0, 1):
            for point, centroid in enumerate(self.near[:, place].tolist()):
                self.users[centroid].add(point)
        heap = [(float(self.cost[c]), -c) for c in alive.tolist()]
        heapq.heapify(heap)
        deleted: list[int] = []
        remaining = len(alive)
        while remaining > stop:
            cost, negative = heapq.heappop(heap)
            gone = -negative
            if not self.left[gone] or cost != self.cost[gone]:
                continue
            self.left[gone] = False
            remaining -= 1
            deleted.append(gone)
            if remaining > 1:
                for centroid in self._move_users(gone, width):
                    heapq.heappush(heap, (float(self.cost[centroid]), -centroid))
            self.users[gone] = set()
        return deleted

    def _move_users(self, gone: int, width: int) -> list[int]:
        """Give the points that had `gone` as first or second a new second; the centroids whose cost changed."""
        touched = set()
        for point in sorted(self.users[gone]):
            near, far = self.near[point], self.far[point]
            first, second = self.first[point], self.second[point]
            holder = int(near[first])
            if holder == gone:
                first, holder = second, int(near[second])
            else:
                self.cost[holder] -= self.counts[point] * (far[second] - far[first])
            third = max(first, second) + 1
            while third < width and not self.left[near[third]]:
                third += 1
            if third == width:
                first, third = self._list_again(point)
                holder = int(near[0])
                self.users[holder].add(point)
            self.first[point], self.second[point] = first, third
            self.users[int(near[third])].add(point)
            self.cost[holder] += self.counts[point] * (far[third] - far[first])
            touched.add(holder)
        touched.discard(gone)
        return sorted(touched)

    def _list_again(self, point: int) -> tuple[int, int]:
        """Fill a point's list with the nearest centroids of those left now."""
        alive = np.flatnonzero(self.left)
        centroids = self.centroids[torch.from_numpy(alive).to(self.centroids.device)]
        far = squared_distances(centroids, self.centroids[point].expand_as(centroids)).cpu().numpy()
        width = min(self.near.shape[1], len(alive))
        order = np.argsort(far, kind="stable")[:width]
        self.near[point, :width], self.far[point, :width] = alive[order], far[order]
        self.near[point, width:] = alive[order[-1]]
        self.far[point, width:] = far[order[-1]]
        return 0, 1


def neighbours(
    centroids: Float32[Tensor, "k d"], among: Int64[np.ndarray, " a"], width: int
) -> tuple[Int64[np.ndarray, "k m"], Float64[np.ndarray, "k m"]]:
    """For every centroid the `width` nearest of the centroids `among`, nearest first, and their squared distances.

    Float32 scores choose them; their distances and order are float64's.
    """
    rows = torch.from_numpy(among).to(centroids.device)
    middle = centroids.double().mean(dim=0)
    moved = (centroids.double() - middle).float()
    keys = moved[rows]
    heights = keys.double().square().sum(dim=1).float() / 2
    near = torch.empty(len(centroids), width, dtype=torch.int64)
    far = torch.empty(len(centroids), width, dtype=torch.float64)

    def work(_: int, tile: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision():
            found = [
                torch.addmm(heights, piece, keys.t(), alpha=-1).topk(width, dim=1, largest=False).indices
                for piece in torch.split(tile, _TILE)
            ]
        places = torch.cat(found).sort(dim=1).values
        flat = tile.repeat_interleave(width, dim=0)
        distances = squared_distances(flat, keys[places.flatten()]).view(len(tile), width)
        order = distances.argsort(dim=1, stable=True)
        return rows[places.gather(1, order)].cpu(), distances.gather(1, order).cpu()

    part = RankPart(moved.cpu().numpy(), 0, len(moved), centroids.device)
    for start, (found, distances) in part.map(work):
        near[start : start + len(found)], far[start : start + len(found)] = found, distances
    return near.numpy(), far.numpy()
