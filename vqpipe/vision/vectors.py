"""Vectors that are read slice by slice, and the part of them that each rank of a group works on.

Every sum over vectors here is exact: its terms are rounded to multiples of one power of two, small enough that
float64 adds them without a further rounding. So the order of addition, the tiles and the number of ranks do not
change it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from vqpipe.codebooks.search import full_precision
from vqpipe.errors import DataError, MismatchError
from vqpipe.runtime.distributed import all_reduce_sum, rank, world_size
from vqpipe.runtime.signals import close_pool

TILE = 1 << 13
"""Vectors that one thread works on at a time."""


DEVICE_TILE = 1 << 24
"""Values of a tile elsewhere than on a CPU, where a tile costs its launches and its copy."""


_MANTISSA = 52
"""Bits of float64 that an exact sum may use."""


T = TypeVar("T")
R = TypeVar("R")


class Vectors(Protocol):
    """n vectors of d dimensions, in memory or mapped from files; numpy matrices are some."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Float[np.ndarray, "m d"]: ...


@dataclass(frozen=True)
class SubsetVectors:
    """Some of the vectors, by rising row number; read slice by slice like the whole."""

    whole: Vectors
    rows: Int64[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice, /) -> Float[np.ndarray, "m d"]:
        return take_rows(self.whole, self.rows[part])


@dataclass(frozen=True)
class UnitVectors:
    """The vectors scaled to unit length, float32."""

    whole: Vectors

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, part: slice, /) -> Float32[np.ndarray, "m d"]:
        wide = self.whole[part].astype(np.float64)
        norms = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
        if not norms.all():
            at = (part.start or 0) + int((norms[:, 0] == 0).argmax())
            raise DataError(
                "spherical k-means: a vector has no direction", found=f"zeros only, first in vector {at}",
                expected="vectors of a length above 0, or spherical: false",
            )  # fmt: skip
        unit: Float32[np.ndarray, "m d"] = (wide / norms).astype(np.float32)
        return unit


def take_rows(vectors: Vectors, rows: Int64[np.ndarray, " m"]) -> Float32[np.ndarray, "m d"]:
    """Rows in rising order as a float32 matrix; only the tiles with some of them are read."""
    found = np.empty((len(rows), vectors[0:1].shape[1]), dtype=np.float32)
    at = 0
    while at < len(rows):
        first = int(rows[at])
        stop = int(np.searchsorted(rows, first + TILE))
        tile = vectors[first : int(rows[stop - 1]) + 1]
        found[at:stop] = tile[rows[at:stop] - first]
        at = stop
    return found


@dataclass(frozen=True)
class RankPart:
    """The vectors `first` to `stop` (not included) of all, which this rank works on; parts may be unequal."""

    vectors: Vectors
    first: int
    stop: int
    device: torch.device

    @classmethod
    def own(cls, vectors: Vectors, device: torch.device) -> RankPart:
        """This rank's share of the vectors, in the order of the ranks."""
        total = len(vectors)
        first, stop = total * rank() // world_size(), total * (rank() + 1) // world_size()
        return cls(vectors, first, stop, device)

    def __len__(self) -> int:
        return self.stop - self.first

    @property
    def rows_per_tile(self) -> int:
        """Vectors of a tile; no result depends on it."""
        if self.device.type == "cpu":
            return TILE
        return max(TILE, DEVICE_TILE // max(1, self.vectors[0:1].shape[1]))

    def tile(self, start: int, count: int) -> Float32[Tensor, "t d"]:
        """Up to `count` vectors, from `start` vectors after the part's first."""
        rows = self.vectors[self.first + start : min(self.first + start + count, self.stop)]
        return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)).to(self.device)

    def map(self, work: Callable[[int, Float32[Tensor, "t d"]], R]) -> Iterator[tuple[int, R]]:
        """Yield (start, work(start, tile)) for each tile in order; on a CPU each of torch's threads takes tiles.

        One thread a tile is faster than many threads on each of a tile's small steps, and by far where other
        processes use the cores too.
        """
        count = self.rows_per_tile
        starts = range(0, len(self), count)
        threads = min(torch.get_num_threads(), len(starts))

        def on_tile(start: int) -> tuple[int, R]:
            return start, work(start, self.tile(start, count))

        if self.device.type != "cpu" or threads < 2:
            yield from map(on_tile, starts)
        else:
            yield from map_threads(on_tile, starts, threads)

    def rows(self, indices: Int64[np.ndarray, " m"]) -> Float32[Tensor, "m d"]:
        """Vectors by their number among all, in any order, on every rank."""
        order = np.argsort(indices, kind="stable")
        rising = indices[order]
        low, high = np.searchsorted(rising, [self.first, self.stop])
        found = torch.zeros(len(indices), self.vectors[0:1].shape[1], device=self.device)
        if high > low:
            own = torch.from_numpy(take_rows(self.vectors, rising[low:high]))
            found[torch.from_numpy(order[low:high]).to(self.device)] = own.to(self.device)
        return all_reduce_sum(found)


def map_threads(work: Callable[[T], R], items: Iterable[T], threads: int) -> Generator[R, None, None]:
    """`work` of each item, in order, on some threads that torch gives one core each; few items wait at a time."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[R]] = deque()
    torch.set_num_threads(1)
    try:
        with full_precision():
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        close_pool(pool)
        torch.set_num_threads(before)


def gather_ranks(values: Float64[Tensor, " m"]) -> Float64[Tensor, "ranks m"]:
    """The values of every rank, one row each, in the order of the ranks."""
    table = torch.zeros(world_size(), *values.shape, dtype=torch.float64, device=values.device)
    table[rank()] = values
    return all_reduce_sum(table)


def grid_for(largest: float, count: int) -> float:
    """The power of two by which to multiply values of at most `largest`, so that rounded to whole numbers,
    `count` of them have an exact sum in float64."""
    if largest <= 0 or not math.isfinite(largest):
        return 1.0
    bits = _MANTISSA - math.frexp(largest)[1] - math.ceil(math.log2(max(count, 2)))
    return 2.0 ** max(-100, min(bits, 100))


def exact_mean(values: Float64[Tensor, " n"], count: int) -> float:
    """The mean of the values of all ranks, `count` in all, none of them negative."""
    least = torch.zeros((), dtype=torch.float64, device=values.device)
    largest = float(gather_ranks(values.max() if len(values) else least).max())
    grid = grid_for(largest, count)
    return float(all_reduce_sum((values * grid).round_().sum())) / grid / count


def check_count(vectors: Vectors, num_clusters: int) -> None:
    """Raise unless there are vectors for `num_clusters` clusters.

    Raises:
        DataError: not a matrix of at least one dimension.
        MismatchError: more clusters than vectors.
    """
    shape = np.shape(vectors[0:1])
    if len(shape) != 2 or shape[1] == 0:
        raise DataError(
            "k-means takes a matrix of vectors", found=f"vectors of shape {shape[1:]}", expected="(n, d)"
        )
    if not 1 <= num_clusters <= len(vectors):
        raise MismatchError(
            "k-means cannot make more clusters than there are vectors",
            found=f"num_clusters {num_clusters}, {len(vectors)} vectors",
            expected="num_clusters of at most the number of vectors, and well below it",
        )


def largest_value(part: RankPart, num_clusters: int) -> float:
    """The largest absolute value among the vectors of all ranks.

    Raises:
        DataError: vectors that are not finite or, with more than one cluster, all the same; on every rank.
    """
    dim = part.vectors[0:1].shape[1]
    nowhere = float(len(part.vectors))
    first_bad = nowhere
    low = torch.full((dim,), torch.inf, dtype=torch.float64, device=part.device)
    high = -low

    def work(start: int, tile: Tensor) -> tuple[int, Tensor, Tensor]:
        bad = ~tile.isfinite().all(dim=1)
        return int(bad.int().argmax()) if bad.any() else -1, tile.amin(dim=0), tile.amax(dim=0)

    for start, (bad, least, most) in part.map(work):
        if bad >= 0:
            first_bad = min(first_bad, float(part.first + start + bad))
        low, high = torch.minimum(low, least.double()), torch.maximum(high, most.double())
    # Infinities do not survive a sum with zeros, which is how ranks exchange values.
    has_vectors = torch.tensor(float(len(part) > 0), dtype=torch.float64, device=part.device).expand(1)
    table = gather_ranks(
        torch.cat([torch.tensor([first_bad], dtype=torch.float64, device=part.device), has_vectors])
    )
    found = table[:, 0].min()
    if float(found) < nowhere:
        raise DataError(
            "k-means: the vectors are not all finite",
            found=f"NaN or infinity, first in vector {int(found)}",
            expected="finite features",
            run="dvc repro patches",
        )
    has = table[:, 1] > 0
    low = gather_ranks(low if len(part) else torch.zeros_like(low))[has].amin(dim=0)
    high = gather_ranks(high if len(part) else torch.zeros_like(high))[has].amax(dim=0)
    if num_clusters > 1 and bool((low == high).all()):
        raise DataError(
            "k-means: all vectors are the same",
            found=f"{len(part.vectors)} equal vectors of {dim} dimensions",
            expected="features that differ from patch to patch; check the images and the CLIP that made them",
        )
    return float(torch.maximum(low.abs(), high.abs()).max())
