"""The rows behind a codebook's health: usage curves, code statistics, similarity and t-SNE maps, and what the
decoder makes of each code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vqpipe.artifacts.specs.evaluation import USAGE_CURVE
from vqpipe.evaluation.pictures import png_of
from vqpipe.metrics.codes import (
    CodeGeometry,
    CodeUsage,
    cluster_order,
    code_geometry,
    cosine_matrix,
    health_summary,
    project,
    shown_codes,
    too_few_to_project,
    usage_curve,
)
from vqpipe.params.evaluate import HealthParams
from vqpipe.runtime.seeds import derive, numpy_rng

if TYPE_CHECKING:
    from vqpipe.quantizers.contract import Codebook

PAIR = "pair"
"""The `group` of decoded pictures of one code of each of two groups."""


@dataclass(frozen=True)
class Health:
    """Per group: its small numbers, and how its codes lie."""

    numbers: list[dict[str, float | int]]
    geometry: list[CodeGeometry]


def measure_health(usage: CodeUsage, books: Sequence[Codebook], seed: int) -> Health:
    """`usage_summary` of each group with `health_summary` beside it."""
    numbers, geometry = [], []
    for group, (book, counts) in enumerate(zip(books, usage.counts, strict=True)):
        found = usage.summary()[group]
        lie = code_geometry(book.vectors, numpy_rng(seed, "codes compared", group))
        numbers.append(found | health_summary(counts, float(found["perplexity"]), lie))
        geometry.append(lie)
    return Health(numbers, geometry)


def curve_rows(
    indices: Int[Tensor, "n g h w"], books: Sequence[Codebook], num_codes: Sequence[int], seed: int
) -> dict[str, Any]:
    """Columns of the usage curves, images in one random order for all tokenizers of a seed."""
    order = numpy_rng(seed, "usage curve").permutation(len(indices))
    columns: dict[str, list[Any]] = {name: [] for name in USAGE_CURVE.columns}
    for group, (book, count) in enumerate(zip(books, num_codes, strict=True)):
        curve = usage_curve(indices[:, group], count, order)
        columns["group"] += [book.group] * len(curve.images)
        for name, values in (
            ("images", curve.images), ("tokens", curve.tokens), ("used", curve.used), ("uniform", curve.uniform),
        ):  # fmt: skip
            columns[name] += values.tolist()
    return columns


def code_columns(
    usage: CodeUsage, books: Sequence[Codebook], health: Health, config: HealthParams | None, seed: int
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Columns of the usage table, every code of every group, and per group why it has no t-SNE map (or None)."""
    columns: dict[str, list[Any]] = {}
    absent: dict[str, str | None] = {}
    for group, (book, counts, lie) in enumerate(zip(books, usage.counts, health.geometry, strict=True)):
        near = _spread(lie.nearest_code, lie.queries, len(counts))
        similar = _spread(lie.nearest_similarity, lie.queries, len(counts))
        close = _spread(lie.nearest_distance, lie.queries, len(counts))
        x, y, absent[book.group] = _map(book, config, derive(seed, "t-SNE", group))
        for name, values in (
            ("group", [book.group] * len(counts)), ("code", range(len(counts))),
            ("name", book.names if book.names is not None else [None] * len(counts)),
            ("count", counts.tolist()), ("norm", lie.norms.tolist()), ("nearest_code", near),
            ("nearest_similarity", similar), ("nearest_distance", close), ("map_x", x), ("map_y", y),
        ):  # fmt: skip
            columns.setdefault(name, []).extend(values)
    return columns, absent


def _spread(values: np.ndarray, places: np.ndarray, count: int) -> list[Any]:
    """`values` at `places` of a list of `count`, None elsewhere."""
    found: list[Any] = [None] * count
    for place, value in zip(places.tolist(), values.tolist(), strict=False):
        found[place] = value
    return found


def _map(book: Codebook, config: HealthParams | None, seed: int) -> tuple[list[Any], list[Any], str | None]:
    count = len(book.vectors)
    most = config.num_mapped if config is not None else 0
    reason = too_few_to_project(min(count, most)) if most else "not asked for"
    if reason is not None:
        return [None] * count, [None] * count, reason
    rng = np.random.default_rng(seed)
    chosen = np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))
    vectors = book.vectors.detach().float().cpu()[torch.from_numpy(chosen)].numpy()
    plane = project(vectors, seed % (1 << 31))
    return _spread(plane[:, 0], chosen, count), _spread(plane[:, 1], chosen, count), None


def similarity_rows(
    usage: CodeUsage, books: Sequence[Codebook], config: HealthParams | None
) -> list[dict[str, Any]]:
    """Rows of the similarity table (VQCT, figure 6): the most used codes of each group, similar ones together."""
    rows: list[dict[str, Any]] = []
    if config is None or config.num_similar == 0:
        return rows
    for book, counts in zip(books, usage.counts, strict=True):
        codes = shown_codes(counts, config.num_similar)
        cosine = cosine_matrix(book.vectors[torch.from_numpy(codes).to(book.vectors.device)])
        order = cluster_order(cosine)
        rows += [
            {
                "group": book.group, "code": int(codes[i]), "count": int(counts[codes[i]]),
                "name": book.names[codes[i]] if book.names is not None else None,
                "cosine": cosine[i][order].tolist(),
            }
            for i in order
        ]  # fmt: skip
    return rows


def decoded_rows(
    decode: Callable[[Int[Tensor, "b g h w"]], UInt8[Tensor, "b 3 H W"]],
    indices: Int[Tensor, "n g h w"],
    usage: CodeUsage,
    books: Sequence[Codebook],
    config: HealthParams | None,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Rows of the decoded table (LG-VQ, figure 7): a grid filled with one code goes through the decoder.

    One group: the most used codes. Two groups with names: every pair of the most used codes of both, counted
    together. Other groups: each group's most used codes, the others held at their most used one.
    """
    if config is None or config.num_decoded == 0:
        return []
    chosen = _chosen(indices, usage, books, config.num_decoded)
    height, width = int(indices.shape[2]), int(indices.shape[3])
    rows = []
    for start in range(0, len(chosen), batch_size):
        part = chosen[start : start + batch_size]
        grids = torch.tensor([codes for _, codes, _ in part])[:, :, None, None].expand(-1, -1, height, width)
        for (group, codes, count), image in zip(part, decode(grids.contiguous()), strict=True):
            names = [
                book.names[code] if book.names is not None else None
                for book, code in zip(books, codes, strict=True)
            ]
            rows.append(
                {"group": group, "codes": codes, "names": names, "count": count, "picture": png_of(image)}
            )
    return rows


def _chosen(
    indices: Tensor, usage: CodeUsage, books: Sequence[Codebook], most: int
) -> list[tuple[str, list[int], int]]:
    if len(books) == 2 and all(book.names is not None for book in books):
        side, width = max(1, int(most**0.5)), len(usage.counts[1])
        first, second = (shown_codes(counts, side).tolist() for counts in usage.counts)
        joint = indices[:, 0].reshape(-1).long() * width + indices[:, 1].reshape(-1).long()
        codes, times = np.unique(joint.cpu().numpy(), return_counts=True)
        seen: dict[int, int] = dict(zip(codes.tolist(), times.tolist(), strict=True))
        return [(PAIR, [a, b], seen.get(a * width + b, 0)) for a in first for b in second]
    top = [int(shown_codes(counts, 1)[0]) for counts in usage.counts]
    chosen = []
    for group, (book, counts) in enumerate(zip(books, usage.counts, strict=True)):
        for code in shown_codes(counts, max(1, most // len(books))).tolist():
            chosen.append((book.group, [*top[:group], code, *top[group + 1 :]], int(counts[code])))
    return chosen
