"""The nearest-code search as its definition reads, and vectors that are hard for it."""

from __future__ import annotations

import torch
from torch import Tensor

from vqpipe.codebooks.search import Metric


def costs(z: Tensor, codes: Tensor, metric: Metric) -> Tensor:
    """The definition, written as it reads: the full matrix in float64."""
    wide, keys = z.double()[:, None], codes.double()[None]
    if metric == "euclidean":
        return (wide - keys).square().sum(-1)
    norm = keys.square().sum(-1).sqrt()
    return -(wide * keys).sum(-1) / torch.where(norm > 0, norm, 1)


def naive(z: Tensor, codes: Tensor, metric: Metric) -> Tensor:
    """The first of the least costs."""
    return costs(z, codes, metric).argmin(1)


def naive_topk(z: Tensor, codes: Tensor, num: int, metric: Metric) -> Tensor:
    """The first `num` by cost and then by index."""
    return costs(z, codes, metric).sort(dim=1, stable=True).indices[:, :num]


KINDS = {
    "normal": lambda g, n, d: torch.randn(n, d, generator=g),
    "grid": lambda g, n, d: torch.randint(-1, 2, (n, d), generator=g).float(),
    "far": lambda g, n, d: torch.randn(n, d, generator=g) * 1e-3 + 1000,
    "tiny": lambda g, n, d: torch.randn(n, d, generator=g) * 1e-41,
    "huge": lambda g, n, d: torch.randn(n, d, generator=g) * 5e37,
    "mixed": lambda g, n, d: (
        torch.randn(n, d, generator=g) * 10.0 ** torch.randint(-20, 20, (n, 1), generator=g)
    ),
    "zero": lambda g, n, d: torch.zeros(n, d),
}
