"""The pictures and counts behind an evaluation: examples with their errors, code usage, patches of the top
codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from vqpipe.data.images import encode_png
from vqpipe.metrics.codes import CodeUsage
from vqpipe.metrics.floors import cell_shape
from vqpipe.params.evaluate import ExampleParams
from vqpipe.runtime.seeds import numpy_rng

if TYPE_CHECKING:
    from vqpipe.quantizers.contract import Codebook


class Source(Protocol):
    """Images by position."""

    def __len__(self) -> int: ...
    def take(self, positions: np.ndarray) -> UInt8[Tensor, "n 3 r r"]: ...


def png_of(image: UInt8[Tensor, "3 h w"]) -> bytes:
    """An RGB image as a PNG file's bytes."""
    return encode_png(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))


def choose_examples(psnr: np.ndarray, floor_psnr: np.ndarray, count: int, seed: int) -> list[tuple[str, int]]:
    """(kind, position) pairs: `count` images of each kind.

    `hard`, `typical` and `easy` are the images with the lowest, middle and highest PSNR of the block-mean floor, and
    `random` ones are drawn: all the same for every tokenizer of that grid, so that a row of pictures compares
    tokenizers. `worst` are this tokenizer's own. Kinds may share images; ties go to the earlier image.
    """
    order, n = np.argsort(floor_psnr, kind="stable"), len(psnr)
    count = min(count, n)
    middle = (n - count) // 2
    chosen = {
        "random": np.sort(numpy_rng(seed, "examples").choice(n, count, replace=False)),
        "hard": order[:count],
        "typical": order[middle : middle + count],
        "easy": order[n - count :][::-1],
        "worst": np.argsort(psnr, kind="stable")[:count],
    }
    return [(kind, int(position)) for kind, positions in chosen.items() for position in positions]


def example_rows(
    source: Source,
    remake: Callable[[np.ndarray], Tensor],
    columns: Mapping[str, Any],
    floor_psnr: np.ndarray,
    config: ExampleParams,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of the examples table; `columns` are those of the per-image table."""
    chosen = choose_examples(np.asarray(columns["psnr"]), floor_psnr, config.num_images, seed)
    if not chosen:
        return []
    positions = np.unique([position for _, position in chosen])
    pictures = {
        int(position): (png_of(original), png_of(made))
        for position, original, made in zip(positions, source.take(positions), remake(positions), strict=True)
    }
    rows = []
    for kind, position in chosen:
        original, made = pictures[position]
        row = {"kind": kind, "original": original, "reconstruction": made}
        rows.append(
            row | {name: columns[name][position] for name in ("image_id", "psnr", "ssim", "perceptual")}
        )
    return rows


def _name(book: Codebook, code: int) -> str | None:
    return book.names[code] if book.names is not None else None


def code_patches(
    source: Source,
    indices: Int[Tensor, "n g h w"],
    usage: CodeUsage,
    books: Sequence[Codebook],
    config: ExampleParams,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of the words table: the most used codes of each group, with crops of the cells they stand for.

    A crop is the part of the original image under the code's grid position. Crops are drawn at random, from
    as many different images as there are.
    """
    grid = (int(indices.shape[2]), int(indices.shape[3]))
    picked: list[tuple[int, int, int, list[int]]] = []
    for group, counts in enumerate(usage.counts):
        flat = indices[:, group].reshape(-1).numpy()
        for code in np.argsort(-counts, kind="stable")[: config.num_codes]:
            if counts[code]:
                rng = numpy_rng(seed, "patches", group, int(code))
                places = _spread(np.flatnonzero(flat == code), grid[0] * grid[1], config.num_patches, rng)
                picked.append((group, int(code), int(counts[code]), places))
    cells = grid[0] * grid[1]
    needed = np.unique([place // cells for *_, places in picked for place in places]).astype(np.int64)
    images = source.take(needed) if len(needed) else None

    def crop(place: int) -> bytes:
        assert images is not None
        image, cell = images[int(np.searchsorted(needed, place // cells))], place % cells
        height, width = cell_shape(images, grid)
        top, left = cell // grid[1] * height, cell % grid[1] * width
        return png_of(image[:, top : top + height, left : left + width])

    return [
        {
            "group": books[group].group,
            "code": code,
            "name": _name(books[group], code),
            "count": count,
            "patches": [crop(p) for p in places],
        }
        for group, code, count, places in picked
    ]


def _spread(places: np.ndarray, cells: int, count: int, rng: np.random.Generator) -> list[int]:
    """Up to `count` of `places`, drawn at random, one per image before a second of any."""
    shuffled = rng.permutation(places)
    _, first = np.unique(shuffled // cells, return_index=True)
    first = np.sort(first)
    rest = np.setdiff1d(np.arange(len(shuffled)), first)
    return [int(place) for place in shuffled[np.concatenate([first, rest])][:count]]
