"""Codebook health: how evenly and how soon codes are used, the geometry of the code vectors, and maps of them.

Counts are those of a whole split. Everything that compares codes in pairs runs in tiles, and for large K from a sample
of the codes, so that memory is bounded for K = 100,000; the names of sampled numbers end in `_sampled`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from vqpipe.artifacts.metrics import Metrics
from vqpipe.errors import MismatchError

TILE_ENTRIES = 1 << 22
"""Similarities in memory at once: 16 MiB in float32."""


MAX_PAIRS = 1 << 28
"""Pairs of codes that are compared: every pair up to K = 16,384, beyond that a sample of codes against all."""


MIN_PROJECTED = 50
"""Fewer points than this show no neighbourhoods."""


PERPLEXITY, ITERATIONS = 30.0, 500


class CodeUsage:
    """Counts, per group, how often each code is used. Memory is one integer per code.

    Args:
        num_codes: K of each group.
    """

    def __init__(self, num_codes: Sequence[int]) -> None:
        self.counts: list[Int64[np.ndarray, " k"]] = [np.zeros(k, dtype=np.int64) for k in num_codes]

    def add(self, indices: Int[Tensor, "b g h w"]) -> None:
        """Count a batch of code indices.

        Raises:
            MismatchError: another number of groups, or an index outside [0, K).
        """
        if indices.ndim != 4 or indices.shape[1] != len(self.counts):
            raise MismatchError(
                "code indices of the wrong shape",
                found=tuple(indices.shape),
                expected=f"(batch, {len(self.counts)}, height, width)",
            )
        for group, counts in enumerate(self.counts):
            flat = indices[:, group].reshape(-1)
            if flat.numel() == 0:
                continue
            if int(flat.min()) < 0 or int(flat.max()) >= len(counts):
                raise MismatchError(
                    f"code indices of group {group} are out of range",
                    found=f"{int(flat.min())} to {int(flat.max())}",
                    expected=f"0 to {len(counts) - 1}",
                )
            counts += torch.bincount(flat.long(), minlength=len(counts)).cpu().numpy()


@dataclass(frozen=True)
class UsageCurve:
    """How many different codes the first images of a split use.

    `images` n and `tokens` N = n h w at log-spaced counts; `used`: codes used at least once; `uniform`: what N
    uniform draws would reach, K (1 - exp(-N / K)).
    """

    images: Int64[np.ndarray, " p"]
    tokens: Int64[np.ndarray, " p"]
    used: Int64[np.ndarray, " p"]
    uniform: Float64[np.ndarray, " p"]


def usage_curve(
    indices: Int[Tensor, "n h w"], num_codes: int, order: Int64[np.ndarray, " n"], num_points: int = 40
) -> UsageCurve:
    """Codes used by the first images, against their number.

    Args:
        indices: codes of one group, image by image.
        num_codes: K.
        order: the order of the images, a permutation; a split's own order may be sorted by class.
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


def entropy_bits(counts: Int64[np.ndarray, " k"]) -> float:
    """Entropy of the empirical distribution of codes, in bits: what one token costs under a unigram model."""
    total = counts.sum()
    if total == 0:
        return 0.0
    p = counts[counts > 0] / total
    return float(-(p * np.log2(p)).sum()) + 0.0


def bits_per_image(num_codes: Sequence[int], grid: tuple[int, int]) -> float:
    """Bits of one image's indices at a fixed-length code: sum over groups of h w log2(K)."""
    return grid[0] * grid[1] * sum(math.log2(k) for k in num_codes)


def tail_mass(counts: Int64[np.ndarray, " k"]) -> float:
    """Share of tokens in the least used half of codes (K / 2, rounded down): 0.5 for even use, 0 where half is
    never used."""
    total = counts.sum()
    return float(np.sort(counts)[: len(counts) // 2].sum() / total) if total else 0.0


def share_for_90_percent(counts: Int64[np.ndarray, " k"]) -> float:
    """Share of the K codes that 90 % of the tokens use, most used first: about 0.9 for even use."""
    total = int(counts.sum())
    if total == 0:
        return 0.0
    covered = np.cumsum(np.sort(counts)[::-1])
    return float((np.searchsorted(covered, math.ceil(0.9 * total), side="left") + 1) / len(counts))


class UsageMetrics(Metrics):
    """How one group's codes are used over one split."""

    num_codes: int
    """K."""
    num_tokens: int
    """N, tokens of the split."""
    utilisation: float
    """Codes used at least once / K, in [0, 1]; higher is better. Compare variants only where N is at least 4 K."""
    uniform_expectation: float
    """1 - exp(-N / K), the utilisation that N uniform draws would reach."""
    entropy_bits: float
    """Of a token, in [0, log2 K]; higher is a more even use."""
    perplexity: float
    """2^entropy, in [1, K]."""


class CodeMetrics(UsageMetrics):
    """Use and geometry of one group's codes.

    Coherence, similarity and distance need two codes; where K is too large for every pair they have the suffix
    `_sampled`, and the plain names are None.
    """

    perplexity_share: float
    """Perplexity / K, in (0, 1]; higher is a more even use."""
    tail_mass: float
    """See `tail_mass`; in [0, 0.5], higher is a more even use."""
    share_for_90_percent: float
    """See `share_for_90_percent`; in [0, 1], higher is a more even use."""
    effective_rank: float
    """See `effective_rank`."""
    norm_ratio: float | None = None
    """The 95th percentile of the codes' norms over their 5th; None where that is 0."""
    mutual_coherence: float | None = None
    """The largest absolute cosine of two different codes, in [0, 1]."""
    nearest_similarity: float | None = None
    """Cosine of a code and the most similar other one, in [-1, 1]; mean over codes."""
    nearest_distance: float | None = None
    """Euclidean distance of a code and the nearest other one; mean over codes."""
    mutual_coherence_sampled: float | None = None
    """As above, of a sample of codes compared with all."""
    nearest_similarity_sampled: float | None = None
    """As above, of a sample of codes compared with all."""
    nearest_distance_sampled: float | None = None
    """As above, of a sample of codes compared with all."""


def usage_metrics(counts: Int64[np.ndarray, " k"]) -> UsageMetrics:
    """What the counts of one group's codes over one split give."""
    num_codes, num_tokens = len(counts), int(counts.sum())
    entropy = entropy_bits(counts)
    return UsageMetrics(
        num_codes=num_codes,
        num_tokens=num_tokens,
        utilisation=float((counts > 0).sum() / num_codes),
        uniform_expectation=-math.expm1(-num_tokens / num_codes),
        entropy_bits=entropy,
        perplexity=2.0**entropy,
    )


def code_metrics(counts: Int64[np.ndarray, " k"], geometry: CodeGeometry) -> CodeMetrics:
    """The small numbers of one group, from its counts over a split and its code vectors."""
    usage = usage_metrics(counts)
    low, high = np.percentile(geometry.norms, [5, 95])
    compared: dict[str, Any] = {}
    if len(geometry.queries):
        suffix = "_sampled" if geometry.sampled else ""
        compared = {
            f"mutual_coherence{suffix}": geometry.coherence,
            f"nearest_similarity{suffix}": float(geometry.nearest_similarity.mean()),
            f"nearest_distance{suffix}": float(geometry.nearest_distance.mean()),
        }
    return CodeMetrics(
        **usage.plain(),
        perplexity_share=usage.perplexity / len(counts),
        tail_mass=tail_mass(counts),
        share_for_90_percent=share_for_90_percent(counts),
        effective_rank=geometry.rank,
        norm_ratio=float(high / low) if low > 0 else None,
        **compared,
    )


@dataclass(frozen=True)
class CodeGeometry:
    """The geometry of one group's codes.

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


def cluster_order(cosine: Float64[np.ndarray, "m m"]) -> Int64[np.ndarray, " m"]:
    """An order with similar codes next to each other: the leaves of an average-linkage clustering of 1 - cosine."""
    if len(cosine) < 3:
        return np.arange(len(cosine))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = np.maximum(1.0 - (cosine + cosine.T) / 2, 0.0)
    np.fill_diagonal(distance, 0.0)
    return np.asarray(leaves_list(linkage(squareform(distance, checks=False), "average")), dtype=np.int64)


def too_few_to_project(count: int) -> str | None:
    """Why t-SNE is left out for so few codes, or None."""
    return f"{count} codes are too few for t-SNE, it needs {MIN_PROJECTED}" if count < MIN_PROJECTED else None


def project(vectors: Float[np.ndarray, "n d"], seed: int) -> Float64[np.ndarray, "n 2"]:
    """t-SNE of code vectors in the plane: principal components as the start, perplexity 30 (less for few points),
    500 iterations, on one thread, so that equal codes and seed give equal maps.

    The axes have no unit, and distances between far groups mean nothing. (van der Maaten and Hinton, JMLR 2008;
    the start after Kobak and Linderman, Nature Biotechnology 2021.)
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = np.asarray(vectors, dtype=np.float32)
    with threadpool_limits(1):
        start = _principal(rows)
        perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
        model = TSNE(2, perplexity=perplexity, init=start, random_state=seed, max_iter=ITERATIONS, n_jobs=1)
        return np.asarray(model.fit_transform(rows), dtype=np.float64)


def _principal(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """The first two principal components, each sign fixed by its largest loading, scaled to a spread of 1e-4."""
    centred = rows.astype(np.float64) - rows.astype(np.float64).mean(0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    top = directions[:, ::-1][:, :2]
    top = top * np.sign(top[np.abs(top).argmax(0), np.arange(top.shape[1])])
    plane = np.zeros((len(rows), 2))
    plane[:, : top.shape[1]] = centred @ top
    spread = plane[:, 0].std()
    return (plane / (spread if spread > 0 else 1.0) * 1e-4).astype(np.float32)
