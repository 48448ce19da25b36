"""Images with captions in the usual layouts: side files, WebDataset shards, or a list of names and captions.

The image's id is its path below the source's folder; in a shard it is the shard's path and the member's name. Captions
are cleaned as COCO's are; an image without a usable one is quarantined. The captions of shards and lists are kept in
memory (as those of COCO are), images never: those of a shard are read in a second pass, in the order of its members.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator

from vqpipe.data.adapters.base import (
    Adapter,
    Chunk,
    Holdout,
    Plan,
    chunked,
    decoded,
    names_in,
    need_inside,
    need_source,
    shown,
    split_of,
    within,
)
from vqpipe.data.adapters.layouts import ABOUT, Layout, coco_files, layouts_at
from vqpipe.data.adapters.listings import (
    WORDS,
    Fields,
    Row,
    folder_splits,
    is_metadata,
    listing_kind,
    listing_names,
    read_listing,
    splits_of,
)
from vqpipe.data.adapters.side_files import SIDE_BYTES, Sides, group_sides, read_sides
from vqpipe.data.captions import clean_captions, identifier
from vqpipe.data.encodings import known_encoding
from vqpipe.data.images import byte_limit
from vqpipe.data.records import Bad, Record, SplitName
from vqpipe.data.walk import ARCHIVES, Walk, hidden, is_image, is_inside, is_safe, members
from vqpipe.errors import DataError, printable
from vqpipe.params.base import Params

LAYOUT = "images with captions at dataset.source.path, in one of these layouts:" + "".join(
    f"\n{name}: {about}" for name, about in ABOUT.items()
)


_KINDS = {"table": ("table", "lines"), "karpathy": ("karpathy",), "json": ("json",)}
"""The kinds of listings that a layout has."""
NUM_PROBED = 100
"""Names that are looked for to find the folder of the images."""


class PairsSource(Params):
    """Images with captions: x.jpg + x.txt, WebDataset shards, or images that a table or json lists (docs/data.md)."""

    kind: Literal["pairs"]
    """Names this source."""
    path: str = Field(min_length=1)
    """The folder of the images and what lists them; or of shards; or one shard."""
    layout: Layout | None = None
    """How the pairs are stored; null: recognised; an error where several layouts are seen."""
    own_splits: bool = True
    """Whether splits that the layout states are kept; false: all images are one pool, for the holdout."""
    holdout: Holdout
    """Shares of train that become the splits that the layout does not state."""
    listing: str | None = Field(default=None, min_length=1)
    """The table or json, relative to `path`, or a pattern of several (`*/metadata.csv`); null: those that are found."""
    images: str | None = Field(default=None, min_length=1)
    """Folder, relative to `path`, that a listing's file names are relative to; null: where they are found."""
    image_field: str | None = Field(default=None, min_length=1)
    """Column or key of the image's file name; a number from 0 in a table without header; null: the usual names."""
    caption_field: str | None = Field(default=None, min_length=1)
    """Column or key of the caption, `a.b` for a key within a key; null: `caption`, `text` and other usual names."""
    label_field: str | None = Field(default=None, min_length=1)
    """Column or key of the class in a listing; null: the listing states no class."""
    encoding: str | None = Field(default=None, min_length=1)
    """What text without a byte order mark is in, such as cp1252; null: UTF-8 or UTF-16, whichever it is."""
    classes: Literal["own", "folders", "none"] = "own"
    """`own`: of x.cls or `label_field`, if any. `folders`: the first folder below a split. `none`: no class."""

    _known = field_validator("encoding")(known_encoding)

    @field_validator("listing", "images")
    @classmethod
    def _inside(cls, path: str | None) -> str | None:
        if path is not None and not is_inside(path):
            raise ValueError("must be relative to path, and inside it")
        return path


@dataclass(frozen=True, slots=True)
class Pair(Record):
    """An image whose captions are known, or are in the files `sides`."""

    sides: tuple[str, ...] = ()
    lacks_class: bool = False


class _Splits:
    """Which split an image is in: the one that its layout states, or, of the train images, the holdout's choice."""

    def __init__(self, source: PairsSource, stated: Iterable[SplitName]) -> None:
        taken: dict[str, float] = {name: 0.0 for name in stated if name != "train"}
        self.holdout: Holdout = source.holdout.model_copy(update=taken)

    def of(self, image_id: str, own: SplitName | None) -> SplitName:
        return split_of(image_id, self.holdout) if own in (None, "train") else own


class _Classes:
    """The numbers and names of the classes: whole numbers in their order, then names."""

    def __init__(self, found: Iterable[str | None]) -> None:
        def order(name: str) -> tuple[int, int, str]:
            return (0, int(name), name) if re.fullmatch(r"\d{1,18}", name, re.ASCII) else (1, 0, name)

        self.names = sorted({name for name in found if name is not None}, key=order)
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def pair(self, name: str | None, image_id: str, image: Path | bytes, **fields: Any) -> Pair:
        """An image with the number and name of its class, and whether it lacks one that it should have."""
        number = None if name is None else self._numbers[name]
        lacks = name is None and bool(self.names)
        return Pair(image_id, image, label=number, label_name=name, lacks_class=lacks, **fields)


def _layout(source: PairsSource) -> Layout:
    """The layout that the params name, or the one that is seen.

    Raises:
        DataError: several are seen, or none.
    """
    if source.layout is not None:
        return source.layout
    path = Path(source.path)
    if source.listing is not None:
        return "metadata" if is_metadata(PurePosixPath(source.listing).name) else "table"
    found = layouts_at(path)
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"dataset.source.path: {path} has pairs in several layouts",
            found="; ".join(f"{name} ({ABOUT[name]})" for name in found),
            expected="the layout to read, in dataset.source.layout",
            choices=found,
        )
    coco = coco_files(path)
    if coco:
        raise DataError(
            f"dataset.source.path: {path} is in COCO's layout",
            found=shown(coco, 4),
            run="vqpipe preset coco --out params.yaml, and name these files in dataset.source.splits",
        )
    raise DataError(
        f"dataset.source.path: no images with captions are seen in {path}",
        found=shown(names_in(path), 8, "an empty folder") if path.is_dir() else "a file",
        expected=LAYOUT.splitlines(),
        run="set dataset.source.layout, and listing where a table or json lists the images",
    )


def _need_fitting(source: PairsSource, layout: Layout) -> None:
    """Refuse options that the layout does not read.

    Raises:
        DataError: one is set.
    """
    names = ("listing", "images", "image_field", "label_field")
    unread = [name for name in names if getattr(source, name) is not None]
    if unread and layout in ("folder", "webdataset"):
        raise DataError(
            f"dataset.source: the layout {layout} does not read " + ", ".join(unread),
            found=", ".join(f"{name}: {getattr(source, name)}" for name in unread),
            expected="null; its images, captions and classes are files next to each other",
            run="set dataset.source.layout to table, json, karpathy or metadata where a file lists the images",
        )


def _parts(name: str) -> tuple[str, ...]:
    """The folders of a file name."""
    return tuple(name.split("/")[:-1])


class _Places:
    """Splits and classes that are folders: `folders` are those that contain images."""

    def __init__(self, source: PairsSource, folders: Iterable[tuple[str, ...]]) -> None:
        self.depth, named = folder_splits(folders)
        self.named = named if source.own_splits else {}
        self.below = self.depth + bool(named)

    def split(self, name: str) -> SplitName | None:
        parts = _parts(name)
        return self.named[parts[self.depth]] if self.named else None

    def label(self, name: str) -> str | None:
        parts = _parts(name)
        return printable(parts[self.below]).replace("_", " ") if len(parts) > self.below else None


def _none_found(path: Path, layout: Layout, bad: Sequence[tuple[str, Bad]]) -> DataError:
    shown = "; ".join(f"{entry.item}: {entry.reason}" for _, entry in bad[:4])
    return DataError(
        f"dataset.source.path: {path} has no image in the layout {layout}",
        found=(shown or "nothing") + ("; …" if len(bad) > 4 else ""),
        expected=ABOUT[layout],
        choices=ABOUT,
    )


def _plan_folder(source: PairsSource, root: Path) -> Plan:
    walk = Walk(root)

    def groups(bad: list[Bad]) -> Iterator[tuple[list[Sides], tuple[str, ...]]]:
        def names() -> Iterator[str]:
            for entry in walk:
                if isinstance(entry, Bad):
                    bad.append(entry)
                else:
                    yield entry

        for folder, files in groupby(names(), key=_parts):
            sides, faults = group_sides(list(files), dotted=False)
            bad.extend(faults)
            yield sides, folder

    refused: list[Bad] = []
    folders, labels = set(), {}
    for group, folder in groups(refused):
        if group:
            folders.add(folder)
        for pair in group if source.classes == "own" else ():
            if pair.label:
                labels[pair.image] = read_sides(None, (f"{root}/{pair.label}",), None, source.encoding).label
    if not folders:
        raise _none_found(root, "folder", [("", entry) for entry in refused])
    places = _Places(source, folders)
    if source.classes == "folders":
        classes = _Classes(places.label("/".join((*folder, "x"))) for folder in folders)
    else:
        classes = _Classes(labels.values())
    splits = _Splits(source, places.named.values())

    def items() -> Iterator[tuple[SplitName, int, Any]]:
        for group, _ in groups([]):
            for pair in group:
                image_id, own = printable(pair.image), labels.get(pair.image)
                own = places.label(pair.image) if source.classes == "folders" else own
                split = splits.of(image_id, places.split(pair.image))
                sides = tuple(str(root / name) for name in pair.texts)
                yield split, 0, classes.pair(own, image_id, root / pair.image, sides=sides)

    return Plan(
        chunked(items()), classes=classes.names, bad=[("", entry) for entry in refused], num_annotations=0
    )


def _shards(source: PairsSource, path: Path, bad: list[tuple[str, Bad]]) -> list[str]:
    """The shards below a folder in the order of their names; one shard is the empty name."""
    if path.is_file():
        return [""]
    names = []
    given: set[tuple[int, int]] = set()
    for entry in Walk(path):
        if isinstance(entry, Bad):
            bad.append(("", entry))
        elif entry.lower().endswith(ARCHIVES):
            found = (path / entry).stat() if (path / entry).is_file() else None
            fault = None
            if found is None:
                fault = "missing_file", "a broken link, or not a plain file"
            elif (found.st_dev, found.st_ino) in given:
                fault = "duplicate_path", "another path to a shard that is listed"
            if fault:
                bad.append(("", Bad(printable(entry), *fault)))
            elif found:
                given.add((found.st_dev, found.st_ino))
                names.append(entry)
    if not names:
        raise DataError(
            f"dataset.source.path: no shard in {path}",
            expected=f"files that end in {', '.join(ARCHIVES)}: {ABOUT['webdataset']}",
        )
    return sorted(names)


def _plan_shards(source: PairsSource, path: Path, max_pixels: int) -> Plan:
    bad: list[tuple[str, Bad]] = []
    shards = _shards(source, path, bad)
    stated = (splits_of(shards) if source.own_splits and shards != [""] else None) or {}
    splits = _Splits(source, stated.values())
    listed: dict[str, dict[str, tuple[tuple[str, ...], str | None]]] = {}
    for shard in shards:
        listed[shard] = _survey_shard(source, path / shard if shard else path, shard, stated.get(shard), bad)
    if not any(listed.values()):
        raise _none_found(path, "webdataset", bad)
    if source.classes == "folders":
        places = _Places(source, {_parts(name) for images in listed.values() for name in images})
        listed = {
            shard: {name: (captions, places.label(name)) for name, (captions, _) in images.items()}
            for shard, images in listed.items()
        }
    classes = _Classes(label for images in listed.values() for _, label in images.values())

    def items() -> Iterator[tuple[SplitName, int, Any]]:
        for shard in shards:
            given: set[str] = set()
            for entry in members(path / shard if shard else path, max_bytes=byte_limit(max_pixels)):
                if isinstance(entry, Bad) or entry.name not in listed[shard] or entry.name in given:
                    continue
                given.add(entry.name)
                captions, label = listed[shard][entry.name]
                image_id = _member_id(shard, entry.name)
                split = splits.of(image_id, stated.get(shard))
                if entry.data is None:
                    yield split, 0, entry.too_large(image_id)
                else:
                    yield split, len(entry.data), classes.pair(label, image_id, entry.data, captions=captions)

    return Plan(chunked(items()), classes=classes.names, bad=bad, num_annotations=0)


def _member_id(shard: str, name: str) -> str:
    return printable(f"{shard}/{name}" if shard else name)


def _survey_shard(
    source: PairsSource, path: Path, shard: str, split: SplitName | None, bad: list[tuple[str, Bad]]
) -> dict[str, tuple[tuple[str, ...], str | None]]:
    """Captions and class of each image of a shard, by the name of its member."""
    names: dict[str, None] = {}
    texts: dict[str, bytes | None] = {}

    def note(entry: Bad) -> None:
        item = printable(f"{shard}/{entry.item}" if shard else entry.item)
        bad.append((split or "", Bad(item, entry.reason, entry.detail, entry.annotations)))

    for entry in members(path, max_bytes=SIDE_BYTES):
        if isinstance(entry, Bad):
            note(entry)
        elif any(part.startswith(".") for part in entry.name.split("/")):
            note(hidden(entry.name))
        elif entry.name in names:
            note(Bad(printable(entry.name), "duplicate_id", "twice in the tar; the first one counts"))
        else:
            names[entry.name] = None
            if not is_image(entry.name):
                texts[entry.name] = entry.data
    pairs, faults = group_sides(list(names), dotted=True)
    for left in faults:
        note(left)
    found: dict[str, tuple[tuple[str, ...], str | None]] = {}
    for pair in pairs:
        files = pair.texts + ((pair.label,) if pair.label and source.classes == "own" else ())
        side = read_sides(texts, files, source.caption_field, source.encoding)
        for fault in side.bad:
            note(Bad(printable(pair.image), *fault))
        found[pair.image] = (side.captions, side.label)
    return found


def _plan_lists(source: PairsSource, root: Path, layout: Layout) -> Plan:
    listed: Listed = read_lists(source, root, layout)
    bad = list(listed.bad)
    places = _Places(source, {_parts(name) for name in listed.entries})
    by_folder = places.named and not listed.states_splits
    own = {
        name: entry.split if not by_folder else places.split(name) for name, entry in listed.entries.items()
    }
    splits = _Splits(source, {split for split in own.values() if split} if source.own_splits else ())
    labels = {name: entry.label for name, entry in listed.entries.items()}
    if source.classes != "own":
        labels = {name: places.label(name) if source.classes == "folders" else None for name in labels}
    classes = _Classes(labels.values())
    if not listed.entries:
        raise _none_found(root, layout, bad)

    def items() -> Iterator[tuple[SplitName, int, Any]]:
        for name, entry in listed.entries.items():
            split = splits.of(printable(name), own[name] if source.own_splits else None)
            captions = tuple(entry.captions)
            yield split, 0, classes.pair(labels[name], printable(name), root / name, captions=captions)

    return Plan(chunked(items()), classes=classes.names, bad=bad, num_annotations=0)


@dataclass(slots=True)
class _Entry:
    """What the listings state of one image."""

    split: SplitName | None
    label: str | None
    captions: list[str] = field(default_factory=list)


@dataclass
class Listed:
    """Entries by the image's path below the root, in the order of the listings."""

    entries: dict[str, _Entry] = field(default_factory=dict)
    bad: list[tuple[str, Bad]] = field(default_factory=list)
    states_splits: bool = False


def read_lists(source: PairsSource, root: Path, layout: Layout) -> Listed:
    """Read all listings of a source.

    Raises:
        DataError: no listing, or several of which none is named; a damaged one; no such folder of images.
    """
    fields = Fields(source.image_field, source.caption_field, source.label_field, source.encoding)
    names = _listings(source, root, layout)
    stated = splits_of(names) if source.own_splits else None
    listed = Listed(states_splits=stated is not None)
    for name in names:
        base = _base(source, root, name, layout, fields)
        own = stated[name] if stated else None
        need_inside(root, root / name)
        for row in read_listing(root / name, fields):
            if isinstance(row, Bad):
                listed.bad.append((own or "", row))
            else:
                _add(listed, row, base, own, source.own_splits)
    if layout == "metadata" and source.listing is None:
        listed.bad += _unlisted(root, listed.entries)
    return listed


def _add(listed: Listed, row: Row, base: str, own: SplitName | None, own_splits: bool) -> None:
    """Add a row to its image's entry, or note what is wrong with it."""
    split, word = own, identifier(row.split)
    if own_splits and word is not None:
        split = WORDS.get(word.lower())
        listed.states_splits = True
        if split is None:
            detail = f"split {word!r} is not one of {', '.join(WORDS)}"
            listed.bad.append(
                ("", Bad(printable(row.image), "bad_annotation", detail, max(1, len(row.captions))))
            )
            return
    name = image_path(row.image, base)
    if name is None:
        listed.bad.append((split or "", Bad(printable(row.image), "unsafe_path", "leads out of the source")))
        return
    label = identifier(row.label)
    entry = listed.entries.setdefault(name, _Entry(split, label))
    if entry.split != split:
        detail = f"listed in {split or 'train'} too; {entry.split or 'train'} counts"
        listed.bad.append((split or "", Bad(printable(name), "duplicate_id", detail)))
        return
    captions, faults = clean_captions(row.captions)
    entry.captions += captions
    entry.label = entry.label or label
    listed.bad += [(split or "", Bad(printable(name), *fault, 1)) for fault in faults]


def image_path(raw: str, base: str) -> str | None:
    """An image's path below the root from the name in a listing; None where it leads out."""
    name = raw.strip().replace("\\", "/")
    if not is_safe(name) or name.startswith("~") or "\0" in name:
        return None
    return str(PurePosixPath(base) / name)


def _listings(source: PairsSource, root: Path, layout: Layout) -> list[str]:
    """The listings, relative to the root, in the order of their names."""
    if source.listing is not None:
        if (root / source.listing).is_file():
            return [PurePosixPath(source.listing).as_posix()]
        found = sorted(
            path.relative_to(root).as_posix() for path in root.glob(source.listing) if path.is_file()
        )
        if not found:
            if (root / source.listing).exists():
                problem = f"dataset.source.listing: {root / source.listing} is not a file"
                raise DataError(problem, expected=ABOUT[layout])
            within(root, source.listing, "dataset.source.listing", ABOUT[layout])
        return found
    if layout == "metadata":
        found = sorted(
            name for name in Walk(root) if isinstance(name, str) and is_metadata(name.rpartition("/")[2])
        )
        folders = [name.rpartition("/")[0] for name in found]
        twice = next((name for name in found if folders.count(name.rpartition("/")[0]) > 1), None)
        several = found if twice is not None else []
    else:
        found = sorted(_of_kind(root, _KINDS[layout]))
        several = found if len(found) > 1 and splits_of(found) is None else []
    if several:
        raise DataError(
            f"dataset.source.listing: several files list images in {root}",
            found=shown(several, 8),
            expected="the name of one, or a pattern of those that belong together",
        )
    if not found:
        raise DataError(
            f"dataset.source.listing: no file lists the images of {root}",
            expected=ABOUT[layout],
            run="name it: dataset.source.listing",
        )
    return found


def _of_kind(root: Path, kinds: tuple[str, ...]) -> Iterator[str]:
    """The listings of some kinds in the root and in the folders right below it."""
    for folder in [root, *sorted(child for child in root.iterdir() if child.is_dir())]:
        if folder is not root and folder.name.startswith("."):
            continue
        names = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
        for name in listing_names(names):
            if (folder / name).is_file() and listing_kind(folder / name) in kinds:
                yield (folder / name).relative_to(root).as_posix()


def _base(source: PairsSource, root: Path, listing: str, layout: Layout, fields: Fields) -> str:
    """The folder, relative to the root, that a listing's names are relative to."""
    if source.images is not None:
        return (
            within(root, source.images, "dataset.source.images", ABOUT[layout]).relative_to(root).as_posix()
        )
    own = listing.rpartition("/")[0] or "."
    if layout == "metadata":
        return own
    rows = islice((row for row in read_listing(root / listing, fields) if isinstance(row, Row)), NUM_PROBED)
    images = [row.image for row in rows]

    def num_found(base: str) -> int:
        paths = [image_path(image, base) for image in images]
        return sum(path is not None and os.path.isfile(root / path) for path in paths)

    near = {base: num_found(base) for base in (own, ".")}
    below = (
        {base: num_found(base) for top in near for base in _folders_in(root, top)}
        if not any(near.values())
        else {}
    )
    found = {base: count for base, count in {**near, **below}.items() if count}
    most = [base for base, count in found.items() if count == max(found.values())]
    safe = any(image_path(image, own) is not None for image in images)
    if safe and len(set(most) - set(near)) + bool(set(most) & set(near)) != 1:
        shown = ", ".join(printable(image) for image in images[:3])
        raise DataError(
            f"dataset.source.images: where are the images that {printable(listing)} lists?",
            found=f"{shown}, … in each of {', '.join(map(printable, most))}" if most
            else f"{shown}, …; none of the first {len(images)} is in {root} or a folder in it",
            expected="the folder, relative to dataset.source.path, that these names are relative to",
        )  # fmt: skip
    return most[0] if most else own


def _folders_in(root: Path, base: str) -> list[str]:
    """The folders right in a folder, relative to the root, in order."""
    names = sorted(child.name for child in (root / base).iterdir() if child.is_dir())
    return [str(PurePosixPath(base) / name) for name in names if not name.startswith(".")]


def _unlisted(root: Path, entries: dict[str, _Entry]) -> Iterator[tuple[str, Bad]]:
    """The images of a Hugging Face folder that no row names, and what the walk left out."""
    for found in Walk(root):
        if isinstance(found, Bad):
            yield "", found
        elif is_image(found) and found not in entries:
            yield "", Bad(printable(found), "no_caption", "no row of the metadata names it")


def _load_pair(source: PairsSource, pair: Pair, max_pixels: int) -> Iterator[Record | Bad]:
    record = decoded(pair, max_pixels, Path(source.path))
    if isinstance(record, Bad):
        yield record
        return
    captions = pair.captions
    if pair.sides:
        side = read_sides(None, pair.sides, source.caption_field, source.encoding)
        captions = side.captions
        yield from (Bad(pair.image_id, *entry) for entry in side.bad)
    if not captions:
        yield Bad(pair.image_id, "no_caption", "no usable caption next to it or in a list")
    elif pair.lacks_class:
        yield Bad(pair.image_id, "no_class", "has no class, though others have")
    else:
        yield replace(record, captions=captions)


class Pairs(Adapter):
    """Images with captions, in one of the layouts of `ABOUT`."""

    kind = "pairs"
    Params = PairsSource
    layout = LAYOUT

    def plan(self, source: PairsSource, max_pixels: int) -> Plan:
        """List the images with their captions, or with their side files.

        Raises:
            DataError: nothing at the path, no layout or several, a damaged shard or list, a field that is not there.
        """
        path = need_source(Path(source.path), LAYOUT)
        layout = _layout(source)
        _need_fitting(source, layout)
        if path.is_file() and layout != "webdataset":
            raise DataError(
                f"dataset.source.path: {path} is a file; name its folder, so that the images belong to the source too",
                expected=f"path: {path.parent}, listing: {path.name}",
            )
        if layout == "folder":
            return _plan_folder(source, path)
        if layout == "webdataset":
            return _plan_shards(source, path, max_pixels)
        return _plan_lists(source, path, layout)

    def load(self, source: PairsSource, chunk: Chunk, max_pixels: int) -> Iterator[Record | Bad]:
        """Decode a chunk's images, and read the captions of their side files."""
        for item in chunk.items:
            if isinstance(item, Bad):
                yield item
            else:
                yield from _load_pair(source, item, max_pixels)
