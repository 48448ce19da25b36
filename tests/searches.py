"""The nearest-code search as its definition reads, vectors that are hard for it, and a check of the fused kernel."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


def counts(z: Tensor, codes: Tensor) -> list[int]:
    """Rows of a fused search in which float64 compared codes, and parts that were searched again in float64."""
    from vqpipe.codebooks.fused import FusedCodes

    fused = FusedCodes(codes, False, search._SLACK, search._TINY)
    found = fused.nearest(z, 1 << 26)
    assert torch.equal(found.index, naive(z, codes, "euclidean"))
    return found.counts.tolist()


class _Operations(TorchDispatchMode):
    """Notes the names of operations."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def launched() -> list[str]:
    """The operations and kernels that a search in two slabs of rows launches, in order.

    Views and allocations, which launch nothing, are left out.
    """
    from vqpipe.codebooks import fused

    names: list[str] = []
    kernels = ("_insert", "_pack", "_three_least", "_choose")
    with ExitStack() as stack:
        for name in kernels:
            kernel = mock.MagicMock()
            kernel.__getitem__.return_value = lambda *_, n=name, **__: names.append(n)
            stack.enter_context(mock.patch.object(fused, name, kernel))
        z, codes = torch.randn(6, 8), torch.randn(50, 8)
        with _Operations(names):
            fused.FusedCodes(codes, False, 24, 0.0).nearest(z, 3 * fused.ONCE)
    return [name for name in names if name not in ("empty", "slice")]


def ties(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of zeros, and far codes but for five of one length: three in a first part, one in each of two others."""
    near = torch.randn(9, generator=g).abs()
    codes = 20 + torch.randn(700, 9, generator=g)
    for at in (5, 9, 20, 300, 600):
        codes[at] = near * (1 - 2 * torch.randint(0, 2, (9,), generator=g))
    return torch.zeros(1, 9), codes


def compiled() -> dict[str, dict[str, int]]:
    """What every kernel compiles to, which needs no GPU: its products on tensor cores and bytes of shared memory, by
    kernel and compute capability.

    In a process without `TRITON_INTERPRET`.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from vqpipe.codebooks import fused

    def built(
        kernel: Any, types: str, constants: dict[str, Any], capability: int, **options: Any
    ) -> dict[str, int]:
        names, given = kernel.arg_names, iter(types.split())
        signature = {name: "constexpr" if name in constants else next(given) for name in names}
        aligned = [(at,) for at, name in enumerate(names) if signature[name][0] == "*" or name == "width"]
        source = ASTSource(
            kernel, signature, {(names.index(name),): value for name, value in constants.items()},
            {key: [["tt.divisibility", 16]] for key in aligned},
        )  # fmt: skip
        found = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        code = found.asm["ptx"]
        products = code.count("wgmma.mma_async") + code.count("mma.sync.aligned.m16n8k16.row.col.f32.bf16")
        return {"products": products, "shared": found.metadata.shared}

    numbers, rows = " ".join(["i32"] * 5), {"ROWS": 32, "DIM": 64}
    codes = {}
    for capability in (80, 90):
        for width in (64, 768):
            shape = fused.shape_for(width, capability == 90)
            codes[f"_three_least {width} {capability}"] = built(
                fused._three_least, f"*bf16 *bf16 *fp32 *fp32 *i32 {numbers} i32",
                {"ROWS": shape.rows, "CODES": shape.codes, "DIM": shape.dim, "ONCE": width == shape.dim},
                capability, num_warps=shape.warps, num_stages=shape.stages,
            )  # fmt: skip
        for cosine in (False, True):
            codes[f"_choose {cosine} {capability}"] = built(
                fused._choose, f"*fp32 *fp32 *fp32 *i32 *fp32 *i32 *i64 *i32 {numbers} i32 i32 fp32 fp32 fp32 fp32",
                {"COSINE": cosine, "DIM": 32, "PARTS": fused.MOST_PARTS}, capability, enable_fp_fusion=False,
            )  # fmt: skip
            codes[f"_pack {cosine} {capability}"] = built(
                fused._pack, f"*fp32 *fp32 *i32 *i32 *i32 *bf16 *fp32 {numbers}",
                {"KEYS": cosine, "SECTIONS": 6 if cosine else 3, "COSINE": cosine, **rows}, capability,
            )  # fmt: skip
        codes[f"_insert {capability}"] = built(
            fused._insert, "*fp32 *i32 *i32 *i32 i32 i32 i32", rows, capability
        )
    return codes


def main() -> None:
    """Compare the fused search with the naive form, interpreted: in a process of its own, since Triton reads
    `TRITON_INTERPRET` when a kernel is defined.

    Prints one JSON object: how many searches were compared, which differ, the counts of float64 decisions for
    several kinds of data, the answers for rows that are not finite, and the kernels of a search.
    """
    compared, different = 0, []
    g = torch.Generator().manual_seed(0)
    with mock.patch.object(search, "fusible", return_value=True):
        cases = [
            (torch.randn(n, d, generator=g), torch.randn(k, d, generator=g), f"{n} rows, {k} codes of {d}")
            for n, k, d in ((1, 1, 1), (70, 130, 3), (90, 1025, 21), (65, 1025, 32), (20, 700, 130))
        ]
        for left, right in [(kind, kind) for kind in sorted(KINDS)] + [
            ("normal", "far"), ("zero", "grid"), ("huge", "tiny"), ("tiny", "huge"),
        ]:  # fmt: skip
            codes = KINDS[right](g, 90, 9)
            codes = torch.cat([codes, codes])[torch.randperm(180, generator=g)]
            cases.append((KINDS[left](g, 20, 9), codes, f"{left} rows, {right} codes twice"))
        cases += [(*ties(g), "codes as near as each other") for _ in range(2)]
        thin = torch.stack([torch.ones(60), torch.randperm(60, generator=g) * 1e-41], 1)
        for length in (1e-30, 1.0, 1e20, 1e28, 1e31):
            cases.append((torch.tensor([[1.0, length]]), thin, f"values that underflow, rows of {length}"))
        near = torch.randn(100, 40, generator=g)
        near = torch.cat([near * (1 + k * 1e-7) for k in range(4)])
        cases.append((near[::40] + torch.randn(10, 40, generator=g), near, "codes that are nearly equal"))
        cases.append(
            (torch.randn(40, 9, generator=g).T[:, ::2].T, torch.randn(70, 9, generator=g), "strides")
        )
        bad = torch.randn(6, 4, generator=g)
        bad[2, 1], bad[4, 0] = torch.nan, torch.inf
        holed = torch.randn(50, 4, generator=g)
        holed[3, 0], holed[7], holed[9, 2] = torch.inf, torch.nan, -torch.inf
        for z, codes, what in cases:
            for metric in ("euclidean", "cosine"):
                for tile in (None, 8000) if len(z) == 70 else (None,):  # two slabs of rows
                    compared += 1
                    if not torch.equal(search.nearest(z, codes, metric, tile), naive(z, codes, metric)):  # type: ignore[arg-type]
                        different.append(f"{metric}, tile {tile}: {what}")
        z, codes = torch.randn(50, 8, generator=g), torch.randn(260, 8, generator=g)
        halves = torch.cat([torch.zeros(1, 8), torch.ones(1, 8), 9 + codes])
        decided = {
            "ordinary": counts(z, codes),
            "deep": counts(torch.randn(50, 300, generator=g), torch.randn(260, 300, generator=g)),
            "codes twice": counts(z, codes.repeat(2, 1)),
            "equal codes": counts(z, codes[:1].repeat(600, 1)),
            "equal rows": counts(z[:1].repeat(50, 1), codes),
            "one code": counts(z, codes[:1]),
            "rows between two codes": counts(torch.full((50, 8), 0.5), halves),
            "rows between eight codes": counts(torch.zeros(40, 8), torch.eye(8)),
        }
        lost = {
            "rows": search.nearest(bad, torch.randn(50, 4, generator=g))[[2, 4]].tolist(),
            "all codes": search.nearest(
                torch.randn(3, 4, generator=g), torch.full((70, 4), torch.nan)
            ).tolist(),
        }
        usable = holed.isfinite().all(1).nonzero()[:, 0]
        for metric in ("euclidean", "cosine"):
            found = search.nearest(bad[[0, 1, 3, 5]], holed, metric)  # type: ignore[arg-type]
            rest = usable[naive(bad[[0, 1, 3, 5]], holed[usable], metric)]  # type: ignore[arg-type]
            lost[f"some codes, {metric}"] = (found - rest).tolist()
    content = {"compared": compared, "different": different, "counts": decided, "not_finite": lost}
    print(json.dumps({**content, "launched": launched()}))


if __name__ == "__main__":
    if sys.argv[1:] == ["--compiled"]:
        print(json.dumps(compiled()))
    else:
        main()
