"""The GPU bench's searches: nearest codes and k-means assignment beside peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from tests.bench.gpu_timing import DEVICE, Case, Precision, Row, extra_bytes, guarded, launches, seconds


def naive(z: Tensor, codes: Tensor) -> Tensor:
    """One matrix product, all scores at once."""
    return ((codes.square().sum(1) - 2 * (z @ codes.T)) + z.square().sum(1)[:, None]).argmin(1)


def chunked(z: Tensor, codes: Tensor) -> Tensor:
    """The naive form over blocks of rows of about 4 GB of scores."""
    rows = max(1, (1 << 30) // len(codes))
    return torch.cat([naive(part, codes) for part in z.split(rows)])


def cuvs(codes: Tensor) -> Callable[[Tensor], Tensor]:
    """cuVS's brute force, of the `gpu` extra; what it builds on the codes once is not timed."""
    from cuvs.neighbors import brute_force

    index = brute_force.build(codes)
    return lambda z: torch.as_tensor(brute_force.search(index, z, 1)[1], device=DEVICE)[:, 0]


def faiss(codes: Tensor) -> Callable[[Tensor], Tensor]:
    """faiss's flat search on the device; what it builds on the codes once is not timed."""
    import faiss as package
    import faiss.contrib.torch_utils  # searches tensors where they are

    if DEVICE.type == "cuda" and not hasattr(package, "StandardGpuResources"):
        raise ImportError("the installed faiss has no GPU")
    index = package.IndexFlatL2(codes.shape[1])
    if DEVICE.type == "cuda":
        index = package.index_cpu_to_gpu(package.StandardGpuResources(), 0, index)
    index.add(codes)
    return lambda z: index.search(z, 1)[1][:, 0]


def vector_quantize(codes: Tensor) -> Callable[[Tensor], Tensor]:
    """`vector-quantize-pytorch`'s `VectorQuantize` in evaluation; what it builds on the codes once is not timed."""
    from vector_quantize_pytorch import VectorQuantize

    with DEVICE:
        module = VectorQuantize(dim=codes.shape[1], codebook_size=len(codes)).eval()
    module.codebook = codes
    return lambda z: module(z[None])[1][0]


def exact(z: Tensor, codes: Tensor) -> Tensor:
    """The naive form in float64, over blocks."""
    rows = max(1, (1 << 27) // len(codes))
    wide = codes.double()
    return torch.cat([naive(part.double(), wide) for part in z.split(rows)])


def _by_differences(z: Tensor, codes: Tensor) -> Tensor:
    """The definition in float64, row by row: the naive form's rounding would make ties of nearly equal codes."""
    wide = codes.double()
    return torch.stack([(row - wide).square().sum(1).argmin() for row in z.double()])


def search(tiny: bool) -> list[Case]:
    """Nearest codes: ours beside the naive form, cdist, `vector-quantize-pytorch`, cuVS and faiss.

    `equal` is the share of equal answers to float64 among at most 2,048.
    `goal` is of the ratio; `decided` are rows in which float64 compared codes, `again` parts of the codes that were
    searched again for a row. The last two rows are hard: all codes equal, and every code nearly equal to three others.
    """
    sizes = [(4096, k, 8, 1.0) for k in (1_024, 16_384, 100_000, 262_144)]
    sizes += [(65_536, 100_000, 8, 0.5), (65_536, 16_384, 256, 0.6), (65_536, 100_000, 256, 0.6)]
    found = [
        Case(_size(n, k, d), 7, partial(_search_row, n, k, d, chunks=False), {"goal": goal})
        for n, k, d, goal in ([(256, 512, 8, 1.0)] if tiny else sizes)
    ]
    n, k, d = (64, 512, 8) if tiny else (4096, 16_384, 64)
    for kind in ("equal codes", "near codes"):
        work = partial(_search_row, n, k, d, chunks=False, kind=kind)
        found.append(Case(f"{_size(n, k, d)}, {kind}", 6, work, {}))
    return found


def _size(n: int, k: int, d: int) -> str:
    return f"n {n:,} K {k:,} d {d}"


def assignment(tiny: bool) -> list[Case]:
    """K-means' nearest centroids: ours beside the naive form over blocks, cuVS and faiss.

    `pass` is a whole pass of `vqpipe.vision.assignment`: vectors from host memory, their distances, sums and counts.
    """
    sizes = [(2_000_000, 16_384, 64, 0.6), (200_000, 100_000, 768, 0.4)]
    return [
        Case(_size(n, k, d), 18, partial(_assignment_row, n, k, d), {"goal": goal})
        for n, k, d, goal in ([(64, 512, 16, 1.0)] if tiny else sizes)
    ]


def _assignment_row(n: int, k: int, d: int) -> Row:
    row = _search_row(n, k, d, chunks=True)
    return row | guarded("pass", lambda: {"pass": _assignment_pass(n, k, d)})


def _assignment_pass(n: int, k: int, d: int) -> float:
    from vqpipe.vision.assignment import SEARCH_METHODS, assign
    from vqpipe.vision.vectors import RankPart

    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(n, d, generator=draw)
    part = RankPart.own(vectors.numpy(), DEVICE)
    centroids = torch.randn(k, d, generator=draw).to(DEVICE)
    return seconds(lambda: assign(part, centroids, SEARCH_METHODS["torch"], float(vectors.abs().max())), 0)


def _decided(z: Tensor, codes: Tensor) -> Row:
    """What was left to float64; nothing where the fused kernels do not run."""
    from vqpipe.codebooks import search

    if not search.fusible(z):
        return {}
    from vqpipe.codebooks.fused import FusedCodes

    counts = FusedCodes(codes, False, search._SLACK, search._TINY).nearest(z, search._TILE).counts.tolist()
    return {"decided": counts[0], "again": counts[1]}


def _search_row(n: int, k: int, d: int, chunks: bool, kind: str = "") -> Row:
    from vqpipe.codebooks.search import nearest

    draw = torch.Generator(DEVICE).manual_seed(0)
    z = torch.randn(n, d, device=DEVICE, generator=draw)
    codes = torch.randn(k, d, device=DEVICE, generator=draw)
    if kind == "equal codes":
        codes = codes[:1].repeat(k, 1)
    elif kind == "near codes":
        codes = codes[: k // 4].repeat(4, 1) * (1 + 1e-7 * torch.arange(k, device=DEVICE)[:, None] * 4 / k)
    peers: dict[str, Callable[[], Tensor]] = {
        "blocks fp32" if chunks else "naive fp32": lambda: (chunked if chunks else naive)(z, codes)
    }
    if not chunks:
        peers["cdist"] = lambda: torch.cdist(z, codes).argmin(1)
        module = cache(lambda: vector_quantize(codes))  # built by the call before the timed ones
        peers["vector-quantize-pytorch"] = lambda: module()(z)
    row: Row = {}
    with Precision(tf32=False):
        row["ours"] = seconds(lambda: nearest(z, codes))
        row["ours_bytes"] = extra_bytes(lambda: nearest(z, codes))
        row |= launches(lambda: nearest(z, codes)) | _decided(z, codes)
        for name, peer in peers.items():
            row |= guarded(name, lambda p=peer, o=name: {o: seconds(p), f"{o}_bytes": extra_bytes(p)})
        for package in (cuvs, faiss):
            row |= guarded(package.__name__, lambda p=package: {p.__name__: _built(p(codes), z)})
    first = next(iter(peers))
    with Precision(tf32=True):
        row |= guarded("tf32", lambda: {"tf32": seconds(peers[first])})
    some = z[:2048]
    row["ratio"] = row["ours"] / row[first] if isinstance(row.get(first), float) else None
    row["equal"] = float(
        (nearest(some, codes) == (exact if not kind else _by_differences)(some, codes)).float().mean()
    )
    return row


def _built(peer: Callable[[Tensor], Tensor], z: Tensor) -> float:
    return seconds(lambda: peer(z))
