"""The contract of a data source, and what adapters share: splits by hash, chunks of work, and decoding.

An adapter gives images (with or without captions, classes and objects), captions alone, or both. A simple one yields
records from `records`. A fast one overrides `plan`, which runs once in the parent process and only lists, and `load`,
which runs in the workers on one chunk at a time and reads and decodes; or `captions`. Every random choice depends on an
image's id, so the result is the same for any number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from vqpipe.data.captions import Unusable, clean_captions
from vqpipe.data.records import Bad, Pixels, Record, SplitName
from vqpipe.data.walk import decode_image, is_inside, leads_out, read_image
from vqpipe.errors import DataError, printable
from vqpipe.params.base import Params
from vqpipe.runtime.seeds import derive

CHUNK_ITEMS = 64
CHUNK_BYTES = 32 << 20

Gives = Literal["images", "captions"]
"""What an adapter gives: images with what is known of them, for `dataset.source`; captions alone, for `corpus`."""


class Holdout(Params):
    """Shares of the `train` images that become other splits, by a hash of image id and seed.

    An image's split depends on its own id alone, so that adding images moves none of the others.
    """

    validation: float = Field(ge=0, lt=1)
    """Share of the train images that become the validation split, 0 to 1."""
    test: float = Field(ge=0, lt=1)
    """Share of the train images that become the test split, 0 to 1."""
    seed: int = Field(ge=0)
    """Seed of the hash."""

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must be below 1, or nothing is left for train")
        return self


def check_splits(given: set[SplitName], holdout: Holdout) -> None:
    """Check that each split comes from one place: a folder or list of its own, or the holdout.

    Raises:
        ValueError: one comes from two places or from none.
    """
    if "train" not in given:
        raise ValueError("splits.train is missing")
    for name in ("validation", "test"):
        share = getattr(holdout, name)
        if name in given and share > 0:
            raise ValueError(f"{name} comes from two places: set holdout.{name} to 0 or remove splits.{name}")
        if name not in given and share == 0:
            raise ValueError(f"{name} comes from nowhere: give splits.{name} or a holdout.{name} above 0")


class Corpus(Params):
    """What the params of all sources of captions alone share."""

    kind: str
    """Names the kind."""
    path: str = Field(min_length=1)
    """The folder or file of the captions."""
    max_bad_fraction: float = Field(default=0.1, ge=0, le=1)
    """Highest share of the captions that may be unusable (damaged, empty, no text, without a letter, in another
    script or language) before `vocabulary` and `graph` fail, 0 to 1. A corpus that is known needs 0.01 or less."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A picklable piece of work: some items of one split, in order. Only the adapter knows what an item is."""

    split: SplitName
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Plan:
    """The work of a source.

    `chunks` may be lazy; the other fields are complete once it has ended. `classes` are the names of the labels,
    `categories` those of the segmentation's numbers from 1 on. `bad` are pairs of split and item that were refused
    while listing, `truth` rows of the TRUTH table. `num_annotations` counts the captions and objects that the source
    lists, usable or not; 0: they are counted while loading; None: it has none of its own.
    """

    chunks: Iterable[Chunk]
    classes: Sequence[str] = ()
    categories: Sequence[str] = ()
    bad: list[tuple[str, Bad]] = field(default_factory=list)
    truth: Sequence[dict[str, Any]] = ()
    num_annotations: int | None = None


class Adapter:
    """One kind of source. It has no state: the params of the source are an argument of each method.

    A subclass sets `kind`, `Params` and `layout`, implements `records`, and has a line in
    `vqpipe.data.adapters.ADAPTERS`. Params have a field `kind` with the literal of the same name; a `path`, if there
    is one, is the source's folder or file; a `holdout`, if there is one, divides the images of `train`.
    """

    kind: ClassVar[str]
    """The name of the source in params."""
    Params: ClassVar[type[Any]]
    """The model of its params; a subclass of `Corpus` where it gives captions alone."""
    CaptionParams: ClassVar[type[Corpus] | None] = None
    """The params where it gives captions alone, if they are others."""
    gives: ClassVar[tuple[Gives, ...]] = ("images",)
    """What it gives."""
    layout: ClassVar[str]
    """The layout that it expects, for error messages."""
    caption_layout: ClassVar[str] = ""
    """The layout where it gives captions alone, if that is another one."""
    endings: ClassVar[tuple[str, ...]] = ()
    """The usual endings of its files of captions, which are read in a folder without `corpus.files`."""
    further_endings: ClassVar[tuple[str, ...]] = ()
    """Endings that are read in a folder where no file has a usual one."""
    may_be_pairs: ClassVar[bool] = False
    """Whether users who have images with captions may have chosen this kind by mistake; errors then mention `pairs`."""
    fill_split: ClassVar[str] = (
        "fill the split's folder, or raise its dataset.source.holdout share (a hash may miss few images)"
    )
    """What to do about a split without images, for an error message."""

    @classmethod
    def params_of(cls, gives: Gives) -> type[Any] | None:
        """The model of the params where images, or captions alone, are wanted; None where it does not give them."""
        if gives not in cls.gives:
            return None
        return (cls.CaptionParams or cls.Params) if gives == "captions" else cls.Params

    def records(self, source: Any) -> Iterator[Record | Bad]:
        """Yield the records of a source, in order, and a `Bad` for each item that is left out.

        An image may be the pixels, or its file or the bytes of one: a worker decodes it and quarantines what it
        cannot use. Captions may be as they were written. Ids must be different; a later image with the id of an
        earlier one is quarantined.

        Raises:
            DataError: the source does not have the layout expected.
        """
        raise NotImplementedError

    def inputs(self, source: Any) -> list[Path]:
        """The files on disk that are read, for the lineage of what is made of them.

        Raises:
            DataError: the source's path does not exist.
        """
        return [need_source(Path(source.path), self.layout)]

    def plan(self, source: Any, max_pixels: int) -> Plan:
        """List the work in ordered chunks.

        Args:
            source: the params.
            max_pixels: images of more pixels will be quarantined.

        Raises:
            DataError: the source does not have the layout expected.
        """
        self.inputs(source)
        numbers: dict[str, int] = {}
        classes: list[str] = []
        bad: list[tuple[str, Bad]] = []
        holdout = getattr(source, "holdout", None)

        def items() -> Iterator[tuple[SplitName, int, Record | Bad]]:
            ids: set[str] = set()
            for record in self.records(source):
                if isinstance(record, Bad):
                    bad.append(("", record))
                    continue
                split, name = record.split, record.label_name
                if split == "train" and holdout is not None:
                    split = split_of(record.image_id, holdout)
                if record.image_id in ids:
                    yield split, 0, Bad(record.image_id, "duplicate_id", "an earlier record has it")
                    continue
                ids.add(record.image_id)
                if name is not None and record.label is None:
                    if name not in numbers:
                        classes.append(name)
                    record = replace(record, label=numbers.setdefault(name, len(numbers)))
                captions, faults = clean_captions(record.captions)
                for reason, detail in faults:
                    yield split, 0, Bad(record.image_id, reason, detail, 1)
                if faults and not captions:
                    yield split, 0, Bad(record.image_id, "no_caption", "none of its captions is usable")
                    continue
                yield split, _num_bytes(record.image), replace(record, captions=captions)

        return Plan(chunked(items()), classes=classes, bad=bad, num_annotations=0)

    def load(self, source: Any, chunk: Chunk, max_pixels: int) -> Iterator[Record | Bad]:
        """Yield a decoded `Record`, or a `Bad`, for each item of a chunk, and a further `Bad` for each caption or
        object that was left out."""
        path = Path(source.path) if hasattr(source, "path") else None
        root = path.parent if path is not None and path.is_file() else path
        for item in chunk.items:
            yield decoded(item, max_pixels, root)

    def captions(self, source: Any, noted: Unusable) -> Iterator[tuple[str, object]]:
        """Yield (id, caption as it is in the source) of the training split, in order.

        Args:
            source: the params.
            noted: receives what else is worth a note; the caller counts captions that it cannot use.

        Raises:
            DataError: the source does not have the layout expected.
        """
        for record in self.records(source):
            if isinstance(record, Bad):
                noted.leave_out(record.reason, record.item, record.detail)
            elif record.split == "train":
                yield from ((record.image_id, caption) for caption in record.captions)


def _num_bytes(image: Pixels | Path | bytes | None) -> int:
    if isinstance(image, np.ndarray):
        return int(image.nbytes)
    return len(image) if isinstance(image, bytes) else 0


def decoded(item: Record | Bad, max_pixels: int, root: Path | None) -> Record | Bad:
    """A record with its pixels; what cannot be used comes back as a `Bad`, as from `read_image`."""
    if isinstance(item, Bad) or isinstance(item.image, np.ndarray):
        return item
    assert item.image is not None, f"{item.image_id} has no image"
    if isinstance(item.image, Path):
        image = read_image(item.image_id, item.image, max_pixels, root)
    else:
        image = decode_image(item.image_id, item.image, max_pixels)
    return image if isinstance(image, Bad) else replace(item, image=image)


def split_of(image_id: str, holdout: Holdout) -> SplitName:
    """The split of an image of `train`: a hash of seed and id, compared with the held-out shares."""
    at = derive(holdout.seed, "holdout", image_id) / 2**63
    if at < holdout.test:
        return "test"
    return "validation" if at < holdout.test + holdout.validation else "train"


def chunked(items: Iterable[tuple[SplitName, int, Any]]) -> Iterator[Chunk]:
    """Group (split, weight in bytes, item) into chunks of one split, of at most 64 items or about 32 MiB.

    The order within a split is that of the items; a chunk is yielded as soon as it is full.
    """
    waiting: dict[SplitName, list[Any]] = {}
    weights: dict[SplitName, int] = {}
    for split, weight, item in items:
        ready = waiting.setdefault(split, [])
        ready.append(item)
        weights[split] = weights.get(split, 0) + weight
        if len(ready) == CHUNK_ITEMS or weights[split] >= CHUNK_BYTES:
            yield Chunk(split, tuple(ready))
            waiting[split], weights[split] = [], 0
    for split, ready in waiting.items():
        if ready:
            yield Chunk(split, tuple(ready))


def shown(names: Sequence[str], most: int, empty: str = "nothing") -> str:
    """The first names of a list, for a message."""
    return ", ".join(map(printable, names[:most])) + (", …" if len(names) > most else "") or empty


def names_in(folder: Path) -> list[str]:
    """The names in a folder, in order."""
    return sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []


def within(root: Path, relative: str, name: str, layout: str) -> Path:
    """A path of the source's params below its root.

    Raises:
        DataError: it is absolute or leads out of the root, or does not exist; the message lists what is
            there.
    """
    if not is_inside(relative):
        raise DataError(
            f"{name} must be relative to the source's path", found=relative, expected=layout.splitlines()
        )
    path = root / relative
    if not path.exists():
        found = f"in {path.parent}: {shown(names_in(path.parent), 12)}"
        raise DataError(f"{name}: {path} does not exist", found=found, expected=layout.splitlines())
    need_inside(root, path)
    return path


def need_inside(root: Path, path: Path) -> None:
    """Check a file of a source, such as a list of its images.

    Raises:
        DataError: its links lead out of the source's root.
    """
    if leads_out(root, path):
        raise DataError(
            f"{path}: a link leads out of the source", found=os.path.realpath(path), expected=f"a file in {root}",
            run="put the file itself there, or name a folder that contains both",
        )  # fmt: skip


def need_source(path: Path, layout: str) -> Path:
    """The root of a source.

    Raises:
        DataError: there is nothing at `path`.
    """
    if not path.exists():
        raise DataError(
            f"dataset.source.path: {path} does not exist (a path relative to the working directory)",
            expected=layout.splitlines(),
            run="put the data there, or set dataset.source.path in params.yaml",
        )
    return path
