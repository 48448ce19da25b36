"""Entropies of distributions over codes, in nats, and their mean over ranks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vqpipe.quantizers.estimators import straight_through
from vqpipe.runtime.distributed import all_reduce_sum, world_size


def entropy(probabilities: Float[Tensor, "*b K"]) -> Float[Tensor, "*b"]:
    """-sum_k p_k log p_k, where 0 log 0 is 0 and has a finite gradient."""
    tiny = torch.finfo(probabilities.dtype).tiny
    return -(probabilities * probabilities.clamp_min(tiny).log()).sum(-1)


def mean_over_ranks(mean: Float[Tensor, "*s"], training: bool) -> Float[Tensor, "*s"]:
    """The mean over all ranks' values, with the gradient of the identity to this rank's.

    A loss f of this mean then has on every rank the value of one process that sees all rows, and after the
    usual averaging of the ranks' gradients its gradient too: rank r of R holds f'(mean) dm_r, and their mean is
    f'(mean) d(sum_r m_r / R). Ranks must hold equally many rows. In eval, where ranks may see unequal numbers of
    batches, and without ranks, the value is returned as it is.
    """
    if not training or world_size() == 1:
        return mean
    return straight_through(mean, all_reduce_sum(mean.detach().clone()) / world_size())
