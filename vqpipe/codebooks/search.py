"""Exact nearest-code search whose memory is bounded by a tile.

*Exact* means: the answer is the argmin of the naive form in float64 on the float32 inputs,

    euclidean   cost[i, k] = sum_j (z[i, j] - codes[k, j])^2
    cosine      cost[i, k] = -(sum_j z[i, j] * codes[k, j]) / |codes[k]|      (0 for a code of norm 0)

and of equal costs the lowest index. The search runs in float32 and still gives that answer: one matrix product a
tile gives all scores |c|^2 / 2 - z.c, a rounding-error bound says how far each can be from its true value,
and only the codes whose interval reaches below the best upper bound so far stay in the race. Where more than
one is left at the end (about one row in a thousand, or every row where codes are duplicates) the float64 form
decides.

On CUDA with Triton the one nearest code is found by fused kernels (`vqpipe.codebooks.fused`), which need no
synchronisation with the device and derive a bound of their own. The answers are the same. Codes that are searched for
many batches of rows are prepared once: `searcher`.

The bound: a float32 dot product of length d, in any order of summation, is off by at most about d * u times
the sum of the products' magnitudes, u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms,
section 3.1). Codes and z are first scaled and shifted by the codes' mean, which changes no order and keeps
the bound small for codebooks far from the origin.

`torch.export` (and ONNX, which is made from it) needs a graph that is the same for all data, and which codes are looked
at again depends on the data. There `nearest_traced` takes its place, exact up to float32 ties.

Letters: n rows, K codes, d dimensions, r rows and t codes of one tile, m candidates.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from vqpipe.runtime.host import count_codes

Metric = Literal["euclidean", "cosine"]

_UNIT = 2.0**-24
"""Rounding unit of float32."""
_UNIT64 = 2.0**-53
"""Rounding unit of float64: codes that the definition cannot separate must all stay in the race."""
_SLACK = 24
"""Roundings in addition to those of the dot product: scaling, shifting, norms, the threshold; with room to spare."""
_TINY = 1e-35
"""Absolute part of the bound, for products that underflow."""
_GROUP = 16
"""Codes per group: thresholds are tested on group minima, which is 16 times fewer tests."""
_TILE_CODES = 1024
"""Codes per tile on a CPU, and the fewest elsewhere."""
_CROWD = 8
"""Candidates per row of a tile above which the tile is looked through for equal codes."""
_TILE = 1 << 26
"""Scores that exist at once elsewhere than on a CPU."""


def nearest(
    z: Float[Tensor, "n d"],
    codes: Float[Tensor, "K d"],
    metric: Metric = "euclidean",
    tile: int | None = None,
) -> Int64[Tensor, " n"]:
    """The index of the nearest code of each row; see the module's text for what exact means.

    Always computed in float32 and float64, for any autocast and matmul precision. No gradient. Memory
    beyond the inputs is O(n * d + tile), on CUDA O(n + K * d + tile). A row that is not finite gets index 0, so that
    a loss made of it can be seen and refused further up. Under `torch.export`: `nearest_traced`.

    Args:
        z: rows to quantise.
        codes: the codebook, finite.
        metric: `euclidean`, or `cosine` (the largest cosine similarity).
        tile: scores that exist at once; by default 2^20 on a CPU (4 MB, which fits its cache) and 2^26 elsewhere.

    Raises:
        ValueError: no codes, or z and codes of different dimensions.
    """
    _check(z, codes)
    if torch.compiler.is_exporting():
        return nearest_traced(z, codes, cosine=metric == "cosine").squeeze(1)
    return searcher(codes, metric, tile)(z)


def searcher(
    codes: Float[Tensor, "K d"], metric: Metric = "euclidean", tile: int | None = None
) -> Callable[[Float[Tensor, "n d"]], Int64[Tensor, " n"]]:
    """`nearest` among codes that do not change between calls: on CUDA they are prepared once, here.

    Raises:
        ValueError: no codes; in a call: z of another dimension.
    """
    if fusible(codes):
        return _fused_searcher(codes.detach().float(), metric, tile or _TILE)

    def search(z: Tensor) -> Tensor:
        _check(z, codes)
        return _search(z, codes, 1, metric, tile).squeeze(1)

    return search


def _fused_searcher(codes: Tensor, metric: Metric, tile: int) -> Callable[[Tensor], Tensor]:
    from vqpipe.codebooks.fused import FusedCodes

    _check(codes, codes)
    prepared = FusedCodes(codes, metric == "cosine", _SLACK, _TINY)

    def search(z: Tensor) -> Tensor:
        _check(z, codes)
        return prepared.nearest(z.detach().float(), tile).index

    return search


def nearest_topk(
    z: Float[Tensor, "n d"],
    codes: Float[Tensor, "K d"],
    num: int,
    metric: Metric = "euclidean",
    tile: int | None = None,
) -> Int64[Tensor, "n num"]:
    """The indices of the `num` nearest codes of each row, the nearest first, of equals the lowest index first.

    Column 0 is `nearest`. Exact, precision, memory and tile as there (memory: O(n * (d + num) + tile)). A row
    that is not finite gets indices 0 to `num` - 1.

    Args:
        z: rows to quantise.
        codes: the codebook.
        num: how many, 1 to K.
        metric: as in `nearest`.
        tile: as in `nearest`.

    Raises:
        ValueError: `num` out of range, no codes, or z and codes of different dimensions.
    """
    if not 1 <= num <= codes.shape[0]:
        raise ValueError(f"cannot take the nearest {num} of {codes.shape[0]} codes")
    _check(z, codes)
    if torch.compiler.is_exporting():
        return nearest_traced(z, codes, num, cosine=metric == "cosine")
    if num == 1:
        return nearest(z, codes, metric, tile)[:, None]
    return _search(z, codes, num, metric, tile)


def _check(z: Tensor, codes: Tensor) -> None:
    if z.ndim != 2 or codes.ndim != 2 or codes.shape[0] == 0 or z.shape[1] != codes.shape[1]:
        raise ValueError(f"cannot search {tuple(codes.shape)} codes for rows of {tuple(z.shape)}")


def _search(z: Tensor, codes: Tensor, num: int, metric: Metric, tile: int | None) -> Tensor:
    if z.shape[0] == 0:
        return torch.zeros(0, num, dtype=torch.int64, device=z.device)
    size = tile or (1 << 20 if z.device.type == "cpu" else _TILE)
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False), full_precision():
        return _Search(z.detach().float(), codes.detach().float(), num, metric, size).run()


@functools.cache
def _triton_is_there() -> bool:
    return importlib.util.find_spec("triton") is not None


def fusible(z: Tensor) -> bool:
    """Whether the fused kernels can run on the device of `z`; the answers do not depend on it, only their speed.

    They need Triton and NVIDIA's tensor cores for bfloat16 (compute capability 8.0), which their bound is about.
    """
    if z.device.type != "cuda" or torch.version.cuda is None or not _triton_is_there():
        return False
    return torch.cuda.get_device_capability(z.device) >= (8, 0)


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products without TF32 or bfloat16 inside: the error bound assumes it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Search:
    """One call: running bounds per row, and the candidates that are still in the race."""

    def __init__(self, z: Tensor, codes: Tensor, num: int, metric: Metric, tile: int) -> None:
        self.z, self.codes, self.num, self.metric = z, codes, num, metric
        self.tile = max(tile, _GROUP)
        dim = z.shape[1]
        self.width = dim + 1 if dim < 32 else -(-(dim + 1) // 8) * 8
        """w: columns of a product's operands; whole vectors of 8 where that is little more."""
        self.best = torch.full((len(z), num), torch.inf, device=z.device)
        """Upper bounds, in ascending order, that this many scores of each row do not pass."""
        self.upper = self.best[:, -1]
        """Least upper bound of each row's `num`-th best score so far."""
        self.rows: list[Tensor] = []
        self.indices: list[Tensor] = []
        self.lower: list[Tensor] = []
        self.pending = 0
        self.firsts: tuple[int, Tensor] | None = None
        """The last tile of codes that was looked through for equal ones: its first code, and `_first_of_equals`."""

    def _error(self, norms: Tensor, key_norm: Tensor, key_height: Tensor) -> Tensor:
        """How far scores of rows of these norms can be from their true values."""
        error = (norms * key_norm + key_height) * _UNIT
        error += (norms.square() + key_norm.square()) * _UNIT64
        return error * (self.z.shape[1] + _SLACK) + _TINY

    def run(self) -> Tensor:
        """The answer, (n, num)."""
        most = _TILE_CODES
        if self.z.device.type != "cpu":  # few rows: many codes at once, since a tile costs its launches
            most = max(most, self.tile // len(self.z))
        num_codes = min(most, self.tile, -(-len(self.codes) // _GROUP) * _GROUP) // _GROUP * _GROUP
        num_rows = max(1, self.tile // num_codes)
        queries, norms, scale, shift = self._queries()
        buffer = torch.empty(min(num_rows, len(self.z)) * num_codes, device=self.z.device)
        for first in range(0, len(self.codes), num_codes):
            keys, key_norm, key_height = self._keys(
                self.codes[first : first + num_codes], scale, shift, num_codes
            )
            for top in range(0, len(self.z), num_rows):
                part = slice(top, min(top + num_rows, len(self.z)))
                scores = buffer[: (part.stop - top) * num_codes].view(-1, num_codes)
                torch.mm(queries[part], keys, out=scores)
                self._take(scores, self._error(norms[part], key_norm, key_height), part, first)
        rows, ranks, indices = self._settle()
        answer = torch.arange(self.num, device=self.z.device).repeat(len(self.z), 1)
        finite = self.z.isfinite().all(1)[rows]
        answer[rows, ranks] = torch.where(finite, indices, ranks)
        return answer

    def _queries(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows as (n, w) with a 1 in column d and zeros after it, their norms, and the scale and shift for the
        codes."""
        z, codes = self.z, self.codes
        queries = torch.zeros(len(z), self.width, device=z.device)
        queries[:, z.shape[1]] = 1
        body = queries[:, : z.shape[1]]
        if self.metric == "cosine":
            scale, shift = torch.ones((), device=z.device), torch.zeros(z.shape[1], device=z.device)
            step = max(1, self.tile // max(1, z.shape[1]))
            for top in range(0, len(z), step):
                body[top : top + step] = -_unit(z[top : top + step])
        else:
            largest = torch.stack([*z.aminmax(), *codes.aminmax()]).abs().amax()
            scale = torch.exp2(-torch.log2(largest).nan_to_num(0).floor().clamp(-120, 120))
            mean = codes.mean(0)
            shift = torch.where(mean.isfinite(), mean, 0) * scale
            body.copy_(shift - z * scale)
        return queries, torch.linalg.vector_norm(body, dim=1), scale, shift

    def _keys(self, codes: Tensor, scale: Tensor, shift: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Codes as (w, width) whose row d is |c|^2 / 2 and zeros after it, the largest norm and the largest
        entry of row d."""
        body = _unit(codes) if self.metric == "cosine" else codes * scale - shift
        norm = torch.linalg.vector_norm(body.double(), dim=1)
        height = norm.square() / 2 if self.metric == "euclidean" else torch.zeros_like(norm)
        dim = codes.shape[1]
        keys = torch.zeros(width, self.width, device=codes.device)
        keys[: len(codes), :dim] = body
        keys[: len(codes), dim] = height
        keys[len(codes) :, dim] = torch.inf  # padding up to whole groups never wins
        return keys.t(), norm.amax().float(), height.amax().float()

    def _take(self, scores: Tensor, error: Tensor, part: slice, first: int) -> None:
        """Tighten the rows' upper bounds by a tile of scores and note which of its codes can still win."""
        grouped = scores.view(len(scores), _GROUP, -1)
        least = grouped.amin(1)
        if self.num == 1:
            upper = torch.minimum(self.upper[part], least.amin(1) + error)
            self.upper[part] = upper
        else:  # that many group minima are as many different scores
            fewest = least if self.num <= least.shape[1] else scores
            bounds = fewest.topk(min(self.num, fewest.shape[1]), largest=False).values + error[:, None]
            self.best[part] = torch.cat([self.best[part], bounds], 1).sort(1).values[:, : self.num]
            upper = self.upper[part]
        limit = upper + error
        row, group = (least <= limit[:, None]).nonzero(as_tuple=True)
        inside = grouped[row, :, group]
        hit, place = (inside <= limit[row, None]).nonzero(as_tuple=True)
        row, code, found = row[hit], place * grouped.shape[2] + group[hit], inside[hit, place]
        if self.num == 1 and len(row) > _CROWD * len(
            scores
        ):  # of equal codes only the first can be the answer
            keep = self._first_of_equals(first, scores.shape[1])[code]
            row, code, found = row[keep], code[keep], found[keep]
        self.rows.append(row + part.start)
        self.indices.append(first + code)
        self.lower.append(found - error[row])
        self.pending += len(row)
        if self.pending > 2 * self.best.numel() + self.tile:
            self._prune()

    def _first_of_equals(self, first: int, num_codes: int) -> Tensor:
        """Whether each code of a tile equals no earlier one of the tile."""
        if self.firsts is None or self.firsts[0] != first:
            codes = self.codes[first : first + num_codes]
            values, kind = torch.unique(codes, dim=0, return_inverse=True)
            each = torch.arange(len(codes), device=codes.device)
            lowest = each.new_full((len(values),), len(codes)).scatter_reduce(0, kind, each, "amin")
            self.firsts = first, lowest[kind] == each
        return self.firsts[1]

    def _prune(self) -> None:
        """Drop candidates that later tiles have beaten; where too many tie, let float64 keep the best of each
        row."""
        rows, indices, lower = self._racing()
        if len(rows) > self.best.numel() + self.tile // 2:
            rows, _, indices = self._decide(rows, indices)
            lower = torch.full((len(rows),), -torch.inf, device=rows.device)
        self.rows, self.indices, self.lower, self.pending = [rows], [indices], [lower], len(rows)

    def _racing(self) -> tuple[Tensor, Tensor, Tensor]:
        rows, indices, lower = torch.cat(self.rows), torch.cat(self.indices), torch.cat(self.lower)
        keep = (lower <= self.upper[rows]).nonzero()[:, 0]
        return rows[keep], indices[keep], lower[keep]

    def _settle(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, ranks and codes: by the bounds where they leave one code, by float64 where they leave more."""
        rows, indices, _ = self._racing()
        if self.num > 1:
            return self._decide(rows, indices)
        alone = torch.bincount(rows, minlength=len(self.z))[rows] == 1
        near_rows, near_ranks, near_indices = self._decide(rows[~alone], indices[~alone])
        ranks = torch.cat([torch.zeros_like(rows[alone]), near_ranks])
        return torch.cat([rows[alone], near_rows]), ranks, torch.cat([indices[alone], near_indices])

    def _decide(self, rows: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The float64 winners of each row among its candidates, in order: rows, ranks and indices.

        The lowest index comes first where costs are equal.
        """
        cost = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        step = max(1, self.tile // (4 * max(1, self.z.shape[1])))
        for at in range(0, len(rows), step):
            part = slice(at, at + step)
            cost[part] = _exact(self.z[rows[part]].double(), self.codes[indices[part]].double(), self.metric)
        order = indices.argsort(stable=True)  # by row, then cost, then index
        order = order[cost[order].argsort(stable=True)]
        order = order[rows[order].argsort(stable=True)]
        rows, indices = rows[order], indices[order]
        counts = count_codes(rows, len(self.z))
        ranks = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        keep = (ranks < self.num).nonzero()[:, 0]
        return rows[keep], ranks[keep], indices[keep]


def _exact(z: Tensor, codes: Tensor, metric: Metric) -> Tensor:
    """The definition's cost for pairs of rows (m, d) in float64."""
    if metric == "euclidean":
        return (z - codes).square().sum(-1)
    return -(z * codes).sum(-1) / _nonzero(codes.square().sum(-1).sqrt())


def _unit(x: Tensor) -> Tensor:
    """Rows divided by their norms, through float64; rows of zeros stay zero."""
    wide = x.double()
    return (wide / _nonzero(wide.square().sum(-1, keepdim=True).sqrt())).float()


def _nonzero(norm: Tensor) -> Tensor:
    return torch.where(norm > 0, norm, 1)


CODES = 8192
"""Codes per tile of the static graph."""
SHORTLIST = 4
"""Codes per row whose cost is computed from differences."""


def nearest_traced(
    z: Float[Tensor, "n d"], codes: Float[Tensor, "K d"], num: int = 1, cosine: bool = False
) -> Int64[Tensor, "n num"]:
    """The indices of the `num` nearest codes of each row, the nearest first, by operations that export.

    Over tiles of at most `CODES` codes, unrolled, float32 scores |c|^2 / 2 - z.c (codes and z shifted by the
    codes' mean, which changes no order) give each row its `SHORTLIST` (at least 2 `num`) best codes so far; of those
    the least sum_j (z_j - c_j)^2 decides, in float32 too, and of equals the lowest index. No float64, which many
    runtimes lack. Cosine similarity is the same search among vectors of length 1.

    It differs from the exact search only where two costs are equal but for a float32 rounding of the cost itself
    (relative difference of about d * 2^-24), or where more than `SHORTLIST` codes are within a rounding of the scores.
    At most n * `CODES` scores exist at once, for any K.

    Args:
        z: rows, float32; n may be a symbol.
        codes: the codebook, whose K and d are numbers.
        num: how many, 1 to K.
        cosine: the largest cosine similarity in place of the least distance; a code of norm 0 has similarity 0.
    """
    z, codes = z.float(), codes.detach().float()
    penalty = codes.new_zeros(len(codes))
    if cosine:  # of vectors of length 1 the nearest is the most similar: |z - c|^2 = 2 - 2 z.c
        penalty = (codes.square().sum(1) == 0).float()  # a code of norm 0 has |z - c|^2 = 1
        z, codes = F.normalize(z), F.normalize(codes)
    mean, length = codes.mean(0), min(max(SHORTLIST, 2 * num), len(codes))
    keys = codes - mean
    indices = _shortlist(z - mean, keys, (keys.square().sum(1) + penalty) / 2, length)
    cost = (z[:, None] - F.embedding(indices, codes)).square().sum(-1) + penalty[indices]
    found: list[Tensor] = []
    for _ in range(num):
        if found:
            cost = cost.masked_fill(indices == found[-1], torch.inf)
        # A later place in the shortlist may have a lower index: of equal costs that one is taken.
        least = cost.amin(1, keepdim=True)
        found.append(torch.where(cost <= least, indices, len(codes) - 1).amin(1, keepdim=True))
    return torch.cat(found, 1)


def _shortlist(queries: Tensor, keys: Tensor, heights: Tensor, num: int) -> Tensor:
    """The codes of the least `num` scores of each row, after all tiles."""
    best, indices = _tile(queries, keys, heights, num, 0)
    for first in range(CODES, len(keys), CODES):
        found, places = _tile(queries, keys, heights, num, first)
        best, order = torch.cat([best, found], 1).topk(num, dim=1, largest=False)
        indices = torch.cat([indices, places], 1).gather(1, order)
    return indices


def _tile(queries: Tensor, keys: Tensor, heights: Tensor, num: int, first: int) -> tuple[Tensor, Tensor]:
    """The least scores of one tile of codes, which begins at `first`, and their codes."""
    part = slice(first, min(first + CODES, len(keys)))
    scores = heights[part] - queries @ keys[part].T
    found, places = scores.topk(min(num, part.stop - first), dim=1, largest=False)
    return found, places + first
