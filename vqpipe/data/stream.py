"""Images as squares of one side, in order, decoded in worker processes; memory does not grow with their number.

`ImageStream` reads a split of a dataset from its shards, `squares` reads the images below any folder.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import UInt8
from torch import Tensor

from vqpipe.artifacts.spec import check_header
from vqpipe.artifacts.specs.dataset import IMAGES
from vqpipe.artifacts.tables import open_table, read_header
from vqpipe.data.images import (
    SUFFIXES,
    DecodedSquares,
    Encoded,
    Preprocess,
    centre_square,
    damaged_image,
    decode_squares,
)
from vqpipe.data.read import open_split
from vqpipe.data.records import Bad
from vqpipe.data.walk import images_below, read_image
from vqpipe.errors import ArtifactError, DataError, of_system, printable
from vqpipe.runtime.shards import map_shards

CHUNK = 32
"""Images that a worker decodes at a time."""
COLUMNS = ["image_id", "image", "height", "width"]


class _Group(NamedTuple):
    """A row group of a shard file, and the position in the split of its first row."""

    file: Path
    number: int
    first: int


class ImageStream:
    """One split as squares of one size; make it with `ImageStream.open`."""

    def __init__(self, groups: list[_Group], num_images: int, preprocess: Preprocess) -> None:
        self._groups, self._num_images, self._preprocess = groups, num_images, preprocess
        self._firsts = [group.first for group in groups]

    @classmethod
    def open(cls, dataset: Path, split: str, side: int, interpolation: str, resize_mode: str) -> ImageStream:
        """Open a split of a published dataset; a shard is compared with its checksum before its first row is read.

        Args:
            dataset: folder of the dataset artifact.
            split: `train`, `validation` or `test`.
            side, interpolation, resize_mode: see `vqpipe.data.images.Preprocess`.

        Raises:
            ArtifactError: no dataset there, or a damaged one.
            DataError: no such split.
        """
        groups: list[_Group] = []
        total = 0
        for path in open_split(dataset, split).shards:
            check_header(read_header(path), IMAGES, path)
            with pq.ParquetFile(path) as file:
                for number in range(file.metadata.num_row_groups):
                    groups.append(_Group(path, number, total))
                    total += file.metadata.row_group(number).num_rows
        return cls(groups, total, Preprocess(side, interpolation, resize_mode))

    def __len__(self) -> int:
        return self._num_images

    def read(
        self, spans: Iterable[range]
    ) -> Generator[tuple[list[str], UInt8[Tensor, "m 3 s s"]], None, None]:
        """The ids and RGB pixels of the images of each span of positions, in the order of the spans, which rises.

        `VQPIPE_WORKERS` processes decode a few chunks ahead while the caller works on what it has; what comes
        out does not depend on their number.

        Raises:
            ArtifactError: a shard or an image in it is damaged; a dataset has no damaged image when it is made.
            SetupError: as `vqpipe.runtime.shards.map_shards`.
        """
        chunks: deque[tuple[Path, list[str], bool]] = deque()

        def encoded() -> Iterator[list[Encoded]]:
            for file, ids, rows, ends in self._chunks(spans):
                chunks.append((file, ids, ends))
                yield rows

        ids: list[str] = []
        pixels: list[UInt8[np.ndarray, "m 3 s s"]] = []
        with closing(_closable(map_shards(partial(decode_squares, self._preprocess), encoded()))) as results:
            for decoded in results:
                file, names, ends = chunks.popleft()
                for at, reason, seen in decoded.bad:
                    raise damaged_image(f"{file}: image {names[at]}", f"{reason}: {seen}", "dataset")
                ids += names
                pixels.append(decoded.pixels)
                if ends:
                    yield ids, torch.from_numpy(np.concatenate(pixels))
                    ids, pixels = [], []

    def _chunks(self, spans: Iterable[range]) -> Iterator[tuple[Path, list[str], list[Encoded], bool]]:
        """File, ids and rows of each chunk, and whether it is the last of its span; a chunk is within one row group."""
        at, table = -1, None
        for span in spans:
            start = span.start
            while start < span.stop:
                wanted = bisect_right(self._firsts, start) - 1
                if wanted != at or table is None:
                    at, table = wanted, _read_group(self._groups[wanted])
                offset = start - self._groups[at].first
                rows = table.slice(offset, min(CHUNK, span.stop - start))
                start += rows.num_rows
                columns = [rows.column(name).to_pylist() for name in COLUMNS]
                file = self._groups[at].file
                yield file, columns[0], list(zip(*columns[1:], strict=True)), start == span.stop


def _closable(
    results: Iterator[DecodedSquares],
) -> Generator[DecodedSquares, None, None]:  # `map_shards` promises an iterator
    yield from results


def _read_group(group: _Group) -> pa.Table:
    try:
        with open_table(group.file, IMAGES) as file:
            return file.read_row_group(group.number, columns=COLUMNS)
    except (pa.ArrowException, OSError) as error:
        if of_system(error) is not None:
            raise
        detail = str(error).splitlines()[0]
        raise ArtifactError(
            f"{group.file}: row group {group.number} cannot be read ({detail})",
            run="dvc checkout, or dvc repro dataset",
        ) from error


IMAGES_LAYOUT = "images at any depth, whose names end in " + " ".join(SUFFIXES)
MAX_PIXELS = 100_000_000
"""Larger images are not decoded."""
CHUNK_ITEMS = 16
"""Images that a worker decodes at a time."""

Square = tuple[str, UInt8[np.ndarray, "r r 3"]]
"""An image's id, which is its path below the folder, and its pixels."""


def squares(root: Path, side: int) -> Iterator[Square | Bad]:
    """Every file below `root`, at any depth: an image, or why it is left out.

    The files and their order are those of `vqpipe.data.walk`, the reasons those of the dataset stage. Images are
    decoded by `VQPIPE_WORKERS` processes, a bounded number at a time.

    Args:
        root: the folder.
        side: images are scaled and cut by `vqpipe.data.images.centre_square`.

    Raises:
        DataError: `root` is not a folder.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", expected="a folder of images")
    names = images_below(root)
    chunks = iter(lambda: tuple(islice(names, CHUNK_ITEMS)), ())
    for found in map_shards(partial(_load, root, side), chunks):
        yield from found


def _load(root: Path, side: int, chunk: tuple[str | Bad, ...]) -> list[Square | Bad]:
    done: list[Square | Bad] = []
    for name in chunk:
        if isinstance(name, Bad):
            done.append(name)
            continue
        image_id = printable(name)
        image = read_image(image_id, root / name, MAX_PIXELS, root)
        done.append(image if isinstance(image, Bad) else (image_id, centre_square(image, side)))
    return done
