"""The fused search beside the naive form, interpreted: a process of its own, since Triton reads
`TRITON_INTERPRET` when a kernel is defined.

Prints one JSON object: how many searches were compared, which differ, and what share of ordinary rows and of rows
with doubled codes the kernel settled.
"""

from __future__ import annotations

import json
from unittest import mock

import torch
from torch import Tensor

from tests.searches import KINDS, naive
from vqpipe.codebooks import search


def main() -> None:
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
