"""Codebook health: how evenly codes are used, how soon they are seen, and how the code vectors lie.

Counts are those of a whole split. Everything that compares codes in pairs runs in tiles, and for large K from
a sample of the codes, so that memory is bounded for K = 100,000; sampled numbers say so in their names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from vqpipe.errors import MismatchError

TILE_ENTRIES = 1 << 22
"""Similarities held at once: 16 MiB in float32."""
MAX_PAIRS = 1 << 28
"""Pairs of codes that are compared: every pair up to K = 16,384, beyond that a sample of codes against all."""


@dataclass(frozen=True)
class UsageCurve:
    """How many different codes the first images of a split use.

    `images` n and `tokens` N = n h w at log-spaced counts; `used`: codes seen at least once; `uniform`: what N
    uniform draws would reach, K (1 - exp(-N / K)).
    """

    images: Int64[np.ndarray, " p"]
    tokens: Int64[np.ndarray, " p"]
    used: Int64[np.ndarray, " p"]
    uniform: Float64[np.ndarray, " p"]


def usage_curve(
    indices: Int[Tensor, "n h w"], num_codes: int, order: Int64[np.ndarray, " n"], num_points: int = 40
) -> UsageCurve:
    """Usage against the number of images seen.

    Args:
        indices: codes of one group, image by image.
        num_codes: K.
        order: the order in which images are seen, a permutation; a split's own order may be sorted by class.
        num_points: counts of images at most, log-spaced from 1 to n.

    Raises:
        MismatchError: an order that is not one of n images, or a code outside [0, K).
    """
    rows = indices.reshape(len(indices), -1).cpu().numpy()
    if len(order) != len(rows) or not np.array_equal(np.sort(order), np.arange(len(rows))):
        raise MismatchError("not an order of the images", found=len(order), expected=f"{len(rows)} positions")
    if rows.size and (rows.min() < 0 or rows.max() >= num_codes):
        raise MismatchError(
            "code indices are out of range", found=int(rows.max()), expected=f"0 to {num_codes - 1}"
        )
    first = np.full(num_codes, len(rows), dtype=np.int64)
    place = np.repeat(np.argsort(order), rows.shape[1])
    np.minimum.at(first, rows.reshape(-1), place)
    last = max(1, len(rows))
    images = np.unique(np.round(np.geomspace(1, last, num_points)).astype(np.int64))
    tokens = images * rows.shape[1]
    used = np.searchsorted(np.sort(first), np.minimum(images, len(rows)), side="left").astype(np.int64)
    return UsageCurve(images, tokens, used, -num_codes * np.expm1(-tokens / num_codes))


def tail_mass(counts: Int64[np.ndarray, " k"]) -> float:
    """Share of tokens in the least used half of codes (K / 2, rounded down): 0.5 for even use, 0 where half is
    never used."""
    total = counts.sum()
    return float(np.sort(counts)[: len(counts) // 2].sum() / total) if total else 0.0


def share_for_90_percent(counts: Int64[np.ndarray, " k"]) -> float:
    """Share of the K codes that hold 90 % of the tokens, most used first: about 0.9 for even use."""
    total = int(counts.sum())
    if total == 0:
        return 0.0
    held = np.cumsum(np.sort(counts)[::-1])
    return float((np.searchsorted(held, math.ceil(0.9 * total), side="left") + 1) / len(counts))


def effective_rank(vectors: Float[Tensor, "k d"]) -> float:
    """Directions in which codes differ: 2 to the entropy of the normalised singular values of the centred
    codebook, in [1, min(K - 1, d)] (Roy and Vetterli, EUSIPCO 2007); 0 where all codes are equal.

    From the d x d Gram matrix in float64: no K x K or K x d factor is made beyond one float64 tile.
    """
    mean = vectors.double().mean(0)
    gram = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for start in range(0, len(vectors), 16384):
        part = vectors[start : start + 16384].double() - mean
        gram += part.T @ part
    values = torch.linalg.eigvalsh(gram)
    singular = torch.where(values > values.max() * 1e-12, values, 0.0).clamp_min(0).sqrt()
    if float(singular.sum()) == 0.0:
        return 0.0
    p = (singular / singular.sum())[singular > 0]
    return float(torch.exp(-(p * p.log()).sum()))


@dataclass(frozen=True)
class CodeGeometry:
    """How the codes of one group lie.

    `norms`: |e_k|. `queries`: the codes, ascending, that were compared with all others; `nearest_code`,
    `nearest_similarity` (cosine, in [-1, 1]) and `nearest_distance` (Euclidean, to the code nearest in that
    sense) belong to them. `coherence`: the largest absolute cosine of two different codes among those pairs.
    """

    norms: Float64[np.ndarray, " k"]
    queries: Int64[np.ndarray, " q"]
    nearest_code: Int64[np.ndarray, " q"]
    nearest_similarity: Float64[np.ndarray, " q"]
    nearest_distance: Float64[np.ndarray, " q"]
    coherence: float
    rank: float

    @property
    def sampled(self) -> bool:
        """Whether only a sample of the codes was compared."""
        return len(self.queries) < len(self.norms)


@torch.no_grad()
def code_geometry(
    vectors: Float[Tensor, "k d"], rng: np.random.Generator, max_pairs: int = MAX_PAIRS
) -> CodeGeometry:
    """Norms, nearest neighbours, coherence and effective rank of one group's codes.

    Memory beyond one copy of the codebook is bounded by `TILE_ENTRIES`, time by `max_pairs`: with more pairs, as
    many codes as allow it are drawn from `rng` and compared with all. A code of norm 0 has cosine 0 with every
    other. Of equally similar neighbours the lowest code is taken.
    """
    codes = vectors.detach().float()
    num_codes = len(codes)
    norms = torch.linalg.vector_norm(codes, dim=1, dtype=torch.float64)
    unit = codes / norms.clamp_min(1e-30).float()[:, None]
    queries = np.arange(num_codes)
    if num_codes * num_codes > max_pairs:
        queries = np.sort(rng.choice(num_codes, max(1, max_pairs // num_codes), replace=False))
    if num_codes < 2:
        nothing = np.zeros(0)
        none = np.zeros(0, dtype=np.int64)
        return CodeGeometry(norms.cpu().numpy(), none, none, nothing, nothing, 0.0, effective_rank(codes))
    squares = codes.square().sum(1)
    step = min(len(queries), max(1, TILE_ENTRIES // num_codes))
    # One tile for all steps: fresh ones between small results that stay would scatter the heap.
    buffer = torch.empty(step, num_codes, device=codes.device)
    near = torch.empty(len(queries), dtype=torch.int64, device=codes.device)
    similar, close = (torch.empty(len(queries), dtype=torch.float64, device=codes.device) for _ in range(2))
    far = torch.zeros((), device=codes.device)
    for start in range(0, len(queries), step):
        rows = torch.from_numpy(queries[start : start + step]).to(codes.device)
        here, tile = slice(start, start + len(rows)), buffer[: len(rows)]
        own = (torch.arange(len(rows), device=codes.device), rows)
        torch.mm(unit[rows], unit.T, out=tile)
        tile[own] = 0.0
        far = torch.maximum(far, torch.stack([tile.max(), -tile.min()]).max())
        tile[own] = -torch.inf
        best = tile.max(dim=1)
        similar[here], near[here] = best.values.double(), best.indices
        # |e_k|^2 - 2 q.e_k orders codes as the distance does; the distance itself is then taken exactly.
        torch.addmm(squares, codes[rows], codes.T, alpha=-2.0, out=tile)
        tile[own] = torch.inf
        other = tile.argmin(dim=1)
        close[here] = (codes[rows].double() - codes[other].double()).norm(dim=1)
    return CodeGeometry(
        norms.cpu().numpy(),
        queries,
        near.cpu().numpy(),
        similar.clamp(-1, 1).cpu().numpy(),
        close.cpu().numpy(),
        min(1.0, float(far)),
        effective_rank(codes),
    )


def health_summary(
    counts: Int64[np.ndarray, " k"], perplexity: float, geometry: CodeGeometry
) -> dict[str, float]:
    """The small numbers of one group, for the metrics.

    Returns:
        `perplexity_share`: perplexity / K; `tail_mass` and `share_for_90_percent`; `effective_rank`;
        `norm_ratio`: the 95th percentile of the norms over their 5th (left out where that is 0); and
        `mutual_coherence`, `nearest_similarity`, `nearest_distance` (means over codes), whose names end in
        `_sampled` where K is too large for every pair. These three need two codes.
    """
    low, high = np.percentile(geometry.norms, [5, 95])
    found = {
        "perplexity_share": perplexity / len(counts),
        "tail_mass": tail_mass(counts),
        "share_for_90_percent": share_for_90_percent(counts),
        "effective_rank": geometry.rank,
    }
    if low > 0:
        found["norm_ratio"] = float(high / low)
    if len(geometry.queries):
        suffix = "_sampled" if geometry.sampled else ""
        found[f"mutual_coherence{suffix}"] = geometry.coherence
        found[f"nearest_similarity{suffix}"] = float(geometry.nearest_similarity.mean())
        found[f"nearest_distance{suffix}"] = float(geometry.nearest_distance.mean())
    return found


def cosine_matrix(vectors: Float[Tensor, "m d"]) -> Float64[np.ndarray, "m m"]:
    """Cosine similarity of every two of a few codes; 1 on the diagonal, 0 for a code of norm 0."""
    rows = vectors.detach().double().cpu()
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    cosine = (unit @ unit.T).clamp(-1, 1)
    cosine.fill_diagonal_(1.0)
    return cosine.numpy()


def shown_codes(counts: Sequence[int] | Int64[np.ndarray, " k"], most: int) -> Int64[np.ndarray, " m"]:
    """The `most` most used codes, unused ones last, lower codes first among equals."""
    return np.argsort(-np.asarray(counts, dtype=np.int64), kind="stable")[:most]
