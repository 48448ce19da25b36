"""Nearest-code search as a static graph, for `torch.export` and what is made from it (ONNX).

`vqpipe.codebooks.search` cannot be exported: which codes it looks at again depends on the data. Here the graph is
the same for all data. Over tiles of at most `CODES` codes, unrolled, float32 scores |c|^2 / 2 - z.c (codes and z
shifted by the codes' mean, which changes no order) give each row its `SHORTLIST` best codes so far; of those the
least sum_j (z_j - c_j)^2 decides, in float32 too, and of equals the lowest index. No float64, which many runtimes
lack. Cosine similarity is the same search among vectors of length 1.

It differs from the exact search only where two costs are equal but for a float32 rounding of the cost itself
(relative difference of about d * 2^-24), or where more than `SHORTLIST` codes are within a rounding of the scores.
At most n * `CODES` scores are held at once, whatever K is.

Letters: n rows, K codes, d dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

CODES = 8192
"""Codes per tile."""
SHORTLIST = 4
"""Codes per row whose cost is computed from differences."""


def nearest_traced(
    z: Float[Tensor, "n d"], codes: Float[Tensor, "K d"], cosine: bool = False
) -> Int64[Tensor, " n"]:
    """The index of the nearest code of each row, by operations that export.

    Args:
        z: rows, float32; n may be a symbol.
        codes: the codebook, whose K and d are numbers.
        cosine: the largest cosine similarity in place of the least distance; a code of norm 0 has similarity 0.
    """
    z, codes = z.float(), codes.detach().float()
    penalty = codes.new_zeros(len(codes))
    if cosine:  # of vectors of length 1 the nearest is the most similar: |z - c|^2 = 2 - 2 z.c
        penalty = (codes.square().sum(1) == 0).float()  # a code of norm 0 has |z - c|^2 = 1
        z, codes = F.normalize(z), F.normalize(codes)
    mean, num = codes.mean(0), min(SHORTLIST, len(codes))
    keys = codes - mean
    indices = _shortlist(z - mean, keys, (keys.square().sum(1) + penalty) / 2, num)
    cost = (z[:, None] - F.embedding(indices, codes)).square().sum(-1) + penalty[indices]
    # A later place in the shortlist may hold a lower index: of equal costs that one is taken.
    least = cost.amin(1, keepdim=True)
    return torch.where(cost <= least, indices, len(codes) - 1).amin(1)


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
