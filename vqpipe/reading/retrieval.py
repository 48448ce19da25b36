"""Recall at k of retrieval where candidates tie and several may be right."""

from __future__ import annotations

from math import comb

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor


def recalls(scores: Float[Tensor, "q c"], right: Bool[Tensor, "q c"], rank: int) -> Float64[np.ndarray, " q"]:
    """For each query the probability of a right candidate among the `rank` best, equal scores in random order.

    Without ties it is 0 or 1. With the best right candidate's score s, a wrong candidates above it, and t of score s
    of which r are right, it is 1 - C(t - r, m) / C(t, m) with m = rank - a, and 0 for m <= 0. A query without a right
    candidate has 0. So a codebook that has collapsed, and scores all alike, gets chance and no more.
    """
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    above = (scores > best).sum(dim=1).tolist()
    tied = (scores == best).sum(dim=1).tolist()
    good = ((scores == best) & right).sum(dim=1).tolist()
    return np.array(
        [_hit(t, g, rank - a) for a, t, g in zip(above, tied, good, strict=True)], dtype=np.float64
    )


def chances(right: Bool[Tensor, "q c"], rank: int) -> Float64[np.ndarray, " q"]:
    """For each query the probability of a right candidate among the first `rank` of a random order."""
    total = right.shape[1]
    return np.array([_hit(total, p, rank) for p in right.sum(dim=1).tolist()], dtype=np.float64)


def _hit(total: int, good: int, drawn: int) -> float:
    """The probability of at least one good one among `drawn` of `total` without replacement."""
    if drawn <= 0 or good <= 0:
        return 0.0
    drawn = min(drawn, total)
    return 1.0 - comb(total - good, drawn) / comb(total, drawn)
