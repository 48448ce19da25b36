"""The nearest-code search as its definition reads, vectors that are hard for it, and a check of the fused kernel."""

from __future__ import annotations

import json
from unittest import mock

import torch
from torch import Tensor

from vqpipe.codebooks import search
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


def main() -> None:
    """Compare the fused search with the naive form, interpreted: in a process of its own, since Triton reads
    `TRITON_INTERPRET` when a kernel is defined.

    Prints one JSON object: how many searches were compared, which differ, and what share of ordinary rows and of rows
    with doubled codes the kernel settled.
    """
    compared, different = 0, []
    taken: list[int] = []
    tiled = search._Search._run_tiled

    def counted(self: search._Search) -> Tensor:
        taken.append(len(self.z))
        return tiled(self)

    def settled(z: Tensor, codes: Tensor) -> float:
        taken.clear()
        search.nearest(z, codes)
        return 1 - sum(taken) / len(z)

    g = torch.Generator().manual_seed(0)
    with (
        mock.patch.object(search, "fusible", return_value=True),
        mock.patch.object(search._Search, "_run_tiled", counted),
    ):
        cases = [
            (torch.randn(n, d, generator=g), torch.randn(k, d, generator=g), f"{n} rows, {k} codes of {d}")
            for n, k, d in ((1, 1, 1), (70, 130, 3), (65, 1025, 32), (20, 700, 130))
        ]
        for left, right in [(kind, kind) for kind in sorted(KINDS)] + [("normal", "far"), ("zero", "grid")]:
            codes = KINDS[right](g, 90, 9)
            codes = torch.cat([codes, codes])[torch.randperm(180, generator=g)]
            cases.append((KINDS[left](g, 40, 9), codes, f"{left} rows, {right} codes twice"))
        bad = torch.randn(6, 4, generator=g)
        bad[2, 1], bad[4, 0] = torch.nan, torch.inf
        for z, codes, what in cases:
            for metric in ("euclidean", "cosine"):
                for tile in (None, 700):
                    compared += 1
                    if not torch.equal(search.nearest(z, codes, metric, tile), naive(z, codes, metric)):  # type: ignore[arg-type]
                        different.append(f"{metric}, tile {tile}: {what}")
        ordinary = torch.randn(200, 8, generator=g), torch.randn(500, 8, generator=g)
        shares = settled(*ordinary), settled(ordinary[0], ordinary[1].repeat(2, 1))
        lost = search.nearest(bad, torch.randn(50, 4, generator=g))[[2, 4]].tolist()
    print(json.dumps({"compared": compared, "different": different, "settled": shares, "not_finite": lost}))


if __name__ == "__main__":
    main()
