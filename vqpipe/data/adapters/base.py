"""The contract of a data source: plan the work in ordered chunks, load a chunk into records.

`plan` runs once, in the parent process, and is cheap: it lists. `load` runs in the workers, on one chunk,
and does the reading and decoding. Every random choice depends on an image's id, so the result is the same
for any number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vqpipe.data.images import BadImage, byte_limit, decode
from vqpipe.data.records import Bad, Record
from vqpipe.data.walk import OUTSIDE, leads_out
from vqpipe.errors import DataError, is_of_machine, printable
from vqpipe.params.dataset import Holdout, SplitName
from vqpipe.runtime.seeds import derive

CHUNK_ITEMS = 64
CHUNK_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Chunk:
    """A picklable piece of work: some items of one split, in order. What an item is, its adapter knows."""

    split: SplitName
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Plan:
    """What a source holds.

    `chunks` may be lazy. `classes` are the names of the labels, `categories` those of the segmentation's
    numbers from 1 on. `bad` are pairs of split and item that were refused while listing, `truth` rows of the
    TRUTH table. `num_annotations` counts the captions and objects that the source lists, usable or not; 0: they
    are counted while loading; None: it has none of its own.
    """

    chunks: Iterable[Chunk]
    classes: Sequence[str] = ()
    categories: Sequence[str] = ()
    bad: list[tuple[str, Bad]] = field(default_factory=list)
    truth: Sequence[dict[str, Any]] = ()
    num_annotations: int | None = None


@dataclass(frozen=True)
class Adapter:
    """One kind of source. `layout` is the layout it expects, in words, for error messages.

    `plan(source, max_pixels)` lists it, `load(source, chunk, max_pixels)` yields a `Record` or
    a `Bad` per item (and a further `Bad` per caption or annotation that was left out).
    """

    plan: Callable[[Any, int], Plan]
    load: Callable[[Any, Chunk, int], Iterator[Record | Bad]]
    layout: str


def split_of(image_id: str, holdout: Holdout) -> SplitName:
    """The split of an image of `train`: a hash of seed and id against the held-out shares."""
    at = derive(holdout.seed, "holdout", image_id) / 2**63
    if at < holdout.test:
        return "test"
    return "validation" if at < holdout.test + holdout.validation else "train"


def chunked(items: Iterable[tuple[SplitName, int, Any]]) -> Iterator[Chunk]:
    """Group (split, weight in bytes, item) into chunks of one split, of at most 64 items or about 32 MiB.

    The order within a split is that of the items; a chunk is given out as soon as it is full.
    """
    waiting: dict[SplitName, list[Any]] = {}
    weights: dict[SplitName, int] = {}
    for split, weight, item in items:
        held = waiting.setdefault(split, [])
        held.append(item)
        weights[split] = weights.get(split, 0) + weight
        if len(held) == CHUNK_ITEMS or weights[split] >= CHUNK_BYTES:
            yield Chunk(split, tuple(held))
            waiting[split], weights[split] = [], 0
    for split, held in waiting.items():
        if held:
            yield Chunk(split, tuple(held))


def read_image(
    item: str, path: Path, max_pixels: int, root: Path | None = None
) -> UInt8[np.ndarray, "h w 3"] | Bad:
    """Read and decode an image file; what cannot be used comes back as a `Bad` with a fixed reason.

    With `root`, the source's folder, a file that a link puts outside of it is refused.
    """
    try:
        if root is not None and leads_out(root, path):
            return Bad(item, *OUTSIDE)
        if not path.is_file():
            return Bad(item, "missing_file", f"no file {printable(path.name)}")
        num_bytes = path.stat().st_size
        if num_bytes > byte_limit(max_pixels):
            return Bad(item, "too_many_bytes", f"{num_bytes} bytes, at most {byte_limit(max_pixels)} read")
        data = path.read_bytes()
    except OSError as error:
        if is_of_machine(error):
            raise
        return Bad(item, "unreadable", error.strerror or type(error).__name__)
    return decode_image(item, data, max_pixels)


def decode_image(item: str, data: bytes, max_pixels: int) -> UInt8[np.ndarray, "h w 3"] | Bad:
    """Decode image bytes; what cannot be used comes back as a `Bad` with a fixed reason."""
    try:
        return decode(data, max_pixels)
    except BadImage as error:
        return Bad(item, error.reason, printable(error.detail))


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a folder or, where `path` is empty, of a tar; `data` is None where its bytes are too many."""

    image_id: str
    path: str
    num_bytes: int
    data: bytes | None
    label: int | None
    label_name: str | None
    captions: tuple[str, ...]

    def image(self, max_pixels: int, root: Path) -> UInt8[np.ndarray, "h w 3"] | Bad:
        """Decode it; what cannot be used comes back as a `Bad` with a fixed reason, as in `read_image`."""
        if self.path:
            return read_image(self.image_id, Path(self.path), max_pixels, root)
        if self.data is None:
            return Bad(self.image_id, "too_many_bytes", f"{self.num_bytes} bytes in the tar; not read")
        return decode_image(self.image_id, self.data, max_pixels)


def within(root: Path, relative: str, name: str, layout: str) -> Path:
    """A path of the source's params below its root.

    Raises:
        DataError: it is absolute or leads out of the root, or does not exist; the message lists what is
            there.
    """
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise DataError(f"{name} must be relative to the source's path", found=relative, expected=layout)
    path = root / relative
    if not path.exists():
        there = (
            sorted(printable(child.name) for child in path.parent.iterdir()) if path.parent.is_dir() else []
        )
        found = ", ".join(there[:12]) + (", …" if len(there) > 12 else "") or "nothing"
        raise DataError(f"{name}: {path} does not exist", found=f"in {path.parent}: {found}", expected=layout)
    need_inside(root, path)
    return path


def need_inside(root: Path, path: Path) -> None:
    """Check a file of a source, such as a list of its images.

    Raises:
        DataError: by its links it lies outside of the source's root.
    """
    if leads_out(root, path):
        raise DataError(
            f"{path}: a link leads out of the source", found=os.path.realpath(path), expected=f"a file in {root}",
            run="put the file itself there, or name a folder that holds both",
        )  # fmt: skip


def need_source(path: Path, layout: str) -> Path:
    """The root of a source.

    Raises:
        DataError: there is nothing at `path`.
    """
    if not path.exists():
        raise DataError(
            f"dataset.source.path: {path} does not exist (a path relative to the working directory)",
            expected=layout,
            run="put the data there, or set dataset.source.path in params.yaml",
        )
    return path
