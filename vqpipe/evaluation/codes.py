"""The tables behind a codebook's health: usage curves, code statistics, similarity and t-SNE maps, what the decoder
makes of each code, and crops of the images that use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from pydantic import Field
from torch import Tensor

from vqpipe.artifacts.specs.evaluation import USAGE_CURVE
from vqpipe.evaluation.pictures import ExampleParams, png_of
from vqpipe.evaluation.reconstructions import Images
from vqpipe.metrics.codes import (
    CodeGeometry,
    CodeMetrics,
    CodeUsage,
    cluster_order,
    code_geometry,
    code_metrics,
    cosine_matrix,
    project,
    shown_codes,
    too_few_to_project,
    usage_curve,
)
from vqpipe.metrics.floors import cell_shape
from vqpipe.params.base import Params
from vqpipe.runtime.batches import slices
from vqpipe.runtime.seeds import derive, numpy_rng

if TYPE_CHECKING:
    from vqpipe.quantizers.contract import Codebook


PAIR = "pair"
"""The `group` of decoded pictures of one code of each of two groups."""


class HealthParams(Params):
    """What is kept of the codebook's health besides its numbers: 0 leaves a picture out."""

    num_similar: Annotated[int, Field(ge=0, le=256)]
    """Codes of the similarity map, per group, the most used ones."""
    num_mapped: Annotated[int, Field(ge=0, le=2000)]
    """Codes on the t-SNE map, per group; of more, as many are drawn at random."""
    num_decoded: Annotated[int, Field(ge=0, le=4096)]
    """Codes fed to the decoder, the most used ones; of two groups, pairs of the most used of both."""


@dataclass(frozen=True)
class CodeHealth:
    """What was measured of the codes, group by group."""

    metrics: list[CodeMetrics]
    geometry: list[CodeGeometry]


def measure_codes(usage: CodeUsage, books: Sequence[Codebook], seed: int) -> CodeHealth:
    """`code_geometry` and `code_metrics` of each group."""
    geometry = [
        code_geometry(book.vectors, numpy_rng(seed, "codes compared", group))
        for group, book in enumerate(books)
    ]
    metrics = [code_metrics(counts, found) for counts, found in zip(usage.counts, geometry, strict=True)]
    return CodeHealth(metrics, geometry)


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
    usage: CodeUsage, books: Sequence[Codebook], health: CodeHealth, config: HealthParams | None, seed: int
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Columns of the usage table, every code of every group, and per group why it has no t-SNE map (or None)."""
    columns: dict[str, list[Any]] = {}
    absent: dict[str, str | None] = {}
    for group, (book, counts, found) in enumerate(zip(books, usage.counts, health.geometry, strict=True)):
        near = _spread(found.nearest_code, found.queries, len(counts))
        similar = _spread(found.nearest_similarity, found.queries, len(counts))
        close = _spread(found.nearest_distance, found.queries, len(counts))
        x, y, absent[book.group] = _map(book, config, derive(seed, "t-SNE", group))
        for name, values in (
            ("group", [book.group] * len(counts)), ("code", range(len(counts))),
            ("name", book.names if book.names is not None else [None] * len(counts)),
            ("count", counts.tolist()), ("norm", found.norms.tolist()), ("nearest_code", near),
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
    """Rows of the similarity table (VQCT, figure 6): the most used codes of each group, ordered by similarity."""
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
                "name": _code_name(book, int(codes[i])),
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
    together. Other groups: each group's most used codes, with the most used one of every other group.
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
            names = [_code_name(book, code) for book, code in zip(books, codes, strict=True)]
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
        times_used: dict[int, int] = dict(zip(codes.tolist(), times.tolist(), strict=True))
        return [(PAIR, [a, b], times_used.get(a * width + b, 0)) for a in first for b in second]
    top = [int(shown_codes(counts, 1)[0]) for counts in usage.counts]
    chosen = []
    for group, (book, counts) in enumerate(zip(books, usage.counts, strict=True)):
        for code in shown_codes(counts, max(1, most // len(books))).tolist():
            chosen.append((book.group, [*top[:group], code, *top[group + 1 :]], int(counts[code])))
    return chosen


def code_patches(
    images: Images,
    indices: Int[Tensor, "n g h w"],
    usage: CodeUsage,
    books: Sequence[Codebook],
    config: ExampleParams,
    seed: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Rows of the words table: the most used codes of each group, with crops of the cells that have them.

    A crop is the part of the original image under the code's grid position. Crops are drawn at random, from
    as many different images as there are, and cut from `batch_size` images at a time.
    """
    grid = (int(indices.shape[2]), int(indices.shape[3]))
    picked: list[tuple[int, int, int, list[int]]] = []
    for group, counts in enumerate(usage.counts):
        flat = indices[:, group].reshape(-1).numpy()
        for code in np.argsort(-counts, kind="stable")[: config.num_codes]:
            if counts[code]:
                rng = numpy_rng(seed, "patches", group, int(code))
                chosen = _one_per_image(
                    np.flatnonzero(flat == code), grid[0] * grid[1], config.num_patches, rng
                )
                picked.append((group, int(code), int(counts[code]), chosen))
    cells = grid[0] * grid[1]
    places = np.unique([place for *_, chosen in picked for place in chosen]).astype(np.int64)
    needed = np.unique(places // cells)
    crops: dict[int, bytes] = {}
    for at in slices(len(needed), batch_size):
        some = needed[at]
        pixels = images.take(some)
        height, width = cell_shape(pixels, grid)
        for place in places[np.isin(places // cells, some)].tolist():
            image, cell = pixels[int(np.searchsorted(some, place // cells))], place % cells
            top, left = cell // grid[1] * height, cell % grid[1] * width
            crops[place] = png_of(image[:, top : top + height, left : left + width])

    return [
        {
            "group": books[group].group,
            "code": code,
            "name": _code_name(books[group], code),
            "count": count,
            "patches": [crops[place] for place in chosen],
        }
        for group, code, count, chosen in picked
    ]


def _one_per_image(places: np.ndarray, cells: int, count: int, rng: np.random.Generator) -> list[int]:
    """Up to `count` of `places`, drawn at random, one per image before a second of any."""
    shuffled = rng.permutation(places)
    _, first = np.unique(shuffled // cells, return_index=True)
    first = np.sort(first)
    rest = np.setdiff1d(np.arange(len(shuffled)), first)
    return [int(place) for place in shuffled[np.concatenate([first, rest])][:count]]


def _code_name(book: Codebook, code: int) -> str | None:
    return book.names[code] if book.names is not None else None
