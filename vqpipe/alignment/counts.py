"""Means over what a batch holds a varying number of: words, captions."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vqpipe.runtime.distributed import average, world_size


def mean_of(total: Float[Tensor, ""], count: Tensor, over_ranks: bool) -> Float[Tensor, ""]:
    """`total / count`, and 0 where the count is 0.

    Args:
        total: a sum over this rank's items, 0 where it has none.
        count: how many they are, a scalar.
        over_ranks: divide by the ranks' mean count, so that the mean over ranks of the results (and of their
            gradients) is the mean over all items. All ranks must then call it.
    """
    count = count.float()
    if over_ranks:
        count = average(count)
    return total / count.clamp_min(1 / world_size())
