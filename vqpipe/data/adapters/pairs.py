"""Images with captions as people have them: files side by side, WebDataset shards, or a list of names and captions.

The image's id is its path below the source's folder, for a shard's member behind the shard's own path. Captions are
cleaned as COCO's are; an image without a usable one is quarantined. The captions of shards and lists are in memory
(as those of COCO are), the images never: those of a shard are read in a second pass, in the order of its members.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from vqpipe.data.adapters.base import (
    Adapter,
    Chunk,
    Item,
    Plan,
    chunked,
    need_source,
    split_of,
)
from vqpipe.data.adapters.layouts import ABOUT, coco_files, folder_splits, is_metadata, layouts_at, splits_of
from vqpipe.data.adapters.listed import Listed, read_lists
from vqpipe.data.adapters.side_files import SIDE_BYTES, Sides, match, read_sides
from vqpipe.data.adapters.tar_stream import members
from vqpipe.data.images import byte_limit
from vqpipe.data.records import Bad, Record
from vqpipe.data.walk import ARCHIVES, Walk, is_image
from vqpipe.errors import DataError, printable
from vqpipe.params.dataset import Holdout, Layout, PairsSource, SplitName

LAYOUT = "images with captions at dataset.source.path, in one of these layouts:" + "".join(
    f"\n            {name}: {about}" for name, about in ABOUT.items()
)


@dataclass(frozen=True, slots=True)
class Pair(Item):
    """An image whose captions are known, or lie in the files `sides` beside it."""

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

    def pair(self, name: str | None, image_id: str, path: str = "", **fields: Any) -> Pair:
        """An image with the number and name of its class, and whether it lacks one that it should have."""
        known: dict[str, Any] = {"num_bytes": 0, "data": None, "captions": (), **fields}
        number = None if name is None else self._numbers[name]
        lacks = name is None and bool(self.names)
        return Pair(image_id, path, label=number, label_name=name, lacks_class=lacks, **known)


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
            f"dataset.source.path: {path} holds pairs in several layouts",
            found="; ".join(f"{name} ({ABOUT[name]})" for name in found),
            expected="dataset.source.layout names the one to read",
            choices=found,
        )
    coco = coco_files(path)
    if coco:
        raise DataError(
            f"dataset.source.path: {path} is in COCO's layout",
            found=", ".join(map(printable, coco[:4])),
            run="vqpipe preset coco --out params.yaml, and name these files in dataset.source.splits",
        )
    names = sorted(printable(child.name) for child in path.iterdir()) if path.is_dir() else ["a file"]
    raise DataError(
        f"dataset.source.path: no images with captions are seen in {path}",
        found=", ".join(names[:8]) + (", …" if len(names) > 8 else "") or "an empty folder",
        expected=LAYOUT,
        run="set dataset.source.layout, and listing where a table or json lists the images",
    )


def plan(source: PairsSource, max_pixels: int) -> Plan:
    """List the images with their captions, or with the files that hold these.

    Raises:
        DataError: nothing at the path, no layout or several, a damaged shard or list, a field that is not there.
    """
    path = need_source(Path(source.path), LAYOUT)
    layout = _layout(source)
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


def _parts(name: str) -> tuple[str, ...]:
    """The folders of a file name."""
    return tuple(name.split("/")[:-1])


class _Places:
    """Splits and classes that are folders: `folders` are those that hold images."""

    def __init__(self, source: PairsSource, folders: Iterable[tuple[str, ...]]) -> None:
        depth, self.named = folder_splits(folders)
        self.depth = depth
        if not source.own_splits:
            self.named = {}
        self.below = depth + bool(folder_splits(folders)[1])

    def split(self, name: str) -> SplitName | None:
        parts = _parts(name)
        return self.named[parts[self.depth]] if self.named else None

    def label(self, name: str) -> str | None:
        parts = _parts(name)
        return printable(parts[self.below]).replace("_", " ") if len(parts) > self.below else None


def _none_found(path: Path, layout: Layout, bad: Sequence[tuple[str, Bad]]) -> DataError:
    shown = "; ".join(f"{entry.item}: {entry.reason}" for _, entry in bad[:4])
    return DataError(
        f"dataset.source.path: {path} holds no image in the layout {layout}",
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

        for folder, held in groupby(names(), key=_parts):
            sides, faults = match(list(held), dotted=False)
            bad.extend(faults)
            yield sides, folder

    refused: list[Bad] = []
    folders, labels = set(), {}
    for group, folder in groups(refused):
        if group:
            folders.add(folder)
        for pair in group if source.classes == "own" else ():
            if pair.label:
                labels[pair.image] = read_sides(root, (pair.label,), None, source.encoding).label
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
                yield split, 0, classes.pair(own, image_id, str(root / pair.image), sides=sides)

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
            if found is None:
                bad.append(
                    ("", Bad(printable(entry), "missing_file", "a link that leads nowhere, or no plain file"))
                )
            elif (found.st_dev, found.st_ino) in given:
                bad.append(
                    ("", Bad(printable(entry), "duplicate_path", "another path to a shard that is listed"))
                )
            else:
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
        places = _Places(source, {_parts(name) for held in listed.values() for name in held})
        listed = {
            shard: {name: (captions, places.label(name)) for name, (captions, _) in held.items()}
            for shard, held in listed.items()
        }
    classes = _Classes(label for held in listed.values() for _, label in held.values())

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
                held: dict[str, Any] = {
                    "num_bytes": entry.num_bytes,
                    "data": entry.data,
                    "captions": captions,
                }
                yield split, len(entry.data or b""), classes.pair(label, image_id, **held)

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
            note(Bad(printable(entry.name), "hidden", "its name begins with a dot"))
        elif entry.name in names:
            note(Bad(printable(entry.name), "duplicate_id", "twice in the tar; the first one counts"))
        else:
            names[entry.name] = None
            if not is_image(entry.name):
                texts[entry.name] = entry.data
    pairs, faults = match(list(names), dotted=True)
    for left in faults:
        note(left)
    found: dict[str, tuple[tuple[str, ...], str | None]] = {}
    for pair in pairs:
        held = pair.texts + ((pair.label,) if pair.label and source.classes == "own" else ())
        side = read_sides(texts, held, source.caption_field, source.encoding)
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
            file = str(root / PurePosixPath(name))
            yield split, 0, classes.pair(labels[name], printable(name), file, captions=tuple(entry.captions))

    return Plan(chunked(items()), classes=classes.names, bad=bad, num_annotations=0)


def load(source: PairsSource, chunk: Chunk, max_pixels: int) -> Iterator[Record | Bad]:
    """Decode a chunk's images, and read the captions that lie in files beside them."""
    for item in chunk.items:
        yield from _load_item(source, item, max_pixels)


def _load_item(source: PairsSource, item: Pair, max_pixels: int) -> Iterator[Record | Bad]:
    image = item.image(max_pixels, Path(source.path))
    if isinstance(image, Bad):
        yield image
        return
    captions = item.captions
    if item.sides:
        side = read_sides(None, item.sides, source.caption_field, source.encoding)
        captions = side.captions
        yield from (Bad(item.image_id, *entry) for entry in side.bad)
    if not captions:
        yield Bad(item.image_id, "no_caption", "no usable caption beside it or in a list")
    elif item.lacks_class:
        yield Bad(item.image_id, "no_class", "has no class, though others have")
    else:
        yield Record(item.image_id, image, captions, item.label, item.label_name)


PAIRS = Adapter(plan, load, LAYOUT)
