"""Class folders of images, in a folder or a tar of one; captions are made from class names by template.

With `classes: folders` the first folder below a split's folder is the class, whatever lies deeper. Classes
are numbered in the order of their folder names over all splits. Hidden files and folders are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vqpipe.data.adapters.base import (
    Adapter,
    Chunk,
    Plan,
    chunked,
    decode_image,
    need_source,
    read_image,
    split_of,
)
from vqpipe.data.adapters.tar_stream import Member, members
from vqpipe.data.captions import BadCaption, clean_caption, printable
from vqpipe.data.images import SUFFIXES, byte_limit
from vqpipe.data.records import Bad, Record
from vqpipe.errors import DataError
from vqpipe.params.dataset import SPLITS, ImageFolderSource, SplitName

LAYOUT = """class folders in the folders of dataset.source.splits, below dataset.source.path (folder or tar):
            train/robin/001.jpg  train/jay/002.png …  val/robin/003.jpg …
            classes.tsv (optional: folder, tab, name)
            with classes: none, images at any depth: 00000/00001.png …"""
MAX_TABLE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One image; `data` holds its bytes when it comes from a tar."""

    image_id: str
    path: str
    num_bytes: int
    data: bytes | None
    label: int | None
    label_name: str | None
    captions: tuple[str, ...]


Found = Member | Bad


def walk(root: Path) -> Iterator[Found]:
    """The files below a folder as members without bytes, in the order of their names.

    Links are followed, but not to a folder above; a folder that cannot be listed comes as `Bad`.
    """
    faults: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=faults.append, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _loops(folder, name))
        relative = Path(folder).relative_to(root)
        for name in sorted(files):
            yield Member((relative / name).as_posix(), 0, None)
    for fault in faults:
        yield Bad(
            printable(Path(fault.filename).relative_to(root).as_posix()), "unreadable", fault.strerror or ""
        )


def _loops(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    return os.path.islink(path) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path))


def _list(source: ImageFolderSource, wanted: str = "", max_bytes: int = 0) -> Iterator[Found]:
    root = Path(source.path)
    return walk(root) if root.is_dir() else members(root, wanted, max_bytes)


class _Places:
    """Which split and class a member's name belongs to."""

    def __init__(self, source: ImageFolderSource) -> None:
        self.source = source
        pairs = [(PurePosixPath(folder).parts, name) for name, folder in source.splits.items()]
        self.folders: list[tuple[tuple[str, ...], SplitName]] = sorted(pairs, key=lambda pair: -len(pair[0]))

    def split(self, name: str) -> tuple[SplitName, tuple[str, ...]] | None:
        """The split, and the parts of the name below its folder; the deepest folder wins."""
        parts = tuple(name.split("/"))
        if any(part.startswith(".") for part in parts):
            return None
        for folder, split in self.folders:
            if parts[: len(folder)] == folder and len(parts) > len(folder):
                return split, parts[len(folder) :]
        return None


def is_image(name: str) -> bool:
    """Whether a file name ends as images do."""
    return name.lower().endswith(SUFFIXES)


def _read_names(source: ImageFolderSource) -> dict[str, str] | None:
    """The class table: class folder -> name (up to the first comma, as ImageNet's tables list synonyms)."""
    if source.class_names is None:
        return None
    root, wanted = Path(source.path), str(PurePosixPath(source.class_names))
    if root.is_dir():
        data = (root / wanted).read_bytes() if (root / wanted).is_file() else None
    else:
        found = (entry for entry in members(root, wanted, MAX_TABLE_BYTES) if isinstance(entry, Member))
        data = next((entry.data for entry in found if entry.name == wanted), None)
    if data is None:
        raise DataError(f"dataset.source.class_names: no {wanted} in {root}", expected=LAYOUT)
    names: dict[str, str] = {}
    for number, line in enumerate(
        data.decode("utf-8", "replace").removeprefix("\ufeff").splitlines(), start=1
    ):
        if not line.strip():
            continue
        folder, _, name = line.partition("\t")
        try:
            names[folder.strip()] = clean_caption(name.split(",")[0])
        except BadCaption as error:
            raise DataError(
                f"{wanted}, line {number}: not a class", found=repr(line), expected="folder, tab, name"
            ) from error
    return names


def captions_of(name: str | None, templates: Iterable[str]) -> tuple[str, ...]:
    """The captions of a class: `{}` is its name, `{a}` the article that fits its first letter."""
    if name is None:
        return tuple(templates)
    article = "an" if name[:1].lower() in "aeiou" else "a"
    return tuple(template.replace("{a}", article).replace("{}", name) for template in templates)


def _classes(source: ImageFolderSource, found: set[str]) -> dict[str, tuple[int, str]]:
    """Number and name of each class by its folder.

    Raises:
        DataError: the class table lacks a folder.
    """
    table = _read_names(source)
    if table is None:
        return {folder: (n, printable(folder).replace("_", " ")) for n, folder in enumerate(sorted(found))}
    lacking = sorted(found - set(table))
    if lacking:
        raise DataError(
            f"{source.class_names} names no class for {len(lacking)} of {len(found)} class folders",
            found=", ".join(printable(folder) for folder in lacking[:5]),
            expected="one line per class folder: folder, tab, name",
        )
    return {folder: (number, table[folder]) for number, folder in enumerate(sorted(found))}


def _survey(source: ImageFolderSource, places: _Places) -> tuple[set[str], list[tuple[str, Bad]]]:
    """One pass over the names: the class folders that hold images, and what is no image.

    Raises:
        DataError: a split's folder holds no image; the message says what was found instead.
    """
    classes: set[str] = set()
    bad: list[tuple[str, Bad]] = []
    images: dict[SplitName, int] = dict.fromkeys(source.splits, 0)
    tops: dict[str, None] = {}
    ids: set[str] = set()
    for entry in _list(source):
        name = entry.item if isinstance(entry, Bad) else entry.name
        tops.setdefault("/".join(name.split("/")[:2]))
        place = places.split(name)
        if isinstance(entry, Bad):
            bad.append((place[0] if place else "", entry))
        elif place is None or name == source.class_names:
            continue
        elif not is_image(name):
            bad.append(
                (place[0], Bad(printable(name), "other_file", "ends in none of " + " ".join(SUFFIXES)))
            )
        elif name in ids:
            bad.append(
                (place[0], Bad(printable(name), "duplicate_id", "twice in the tar; the first one counts"))
            )
        elif source.classes == "folders" and len(place[1]) == 1:
            bad.append((place[0], Bad(printable(name), "no_class", "lies beside the class folders")))
        else:
            ids.add(name)
            images[place[0]] += 1
            if source.classes == "folders":
                classes.add(place[1][0])
    empty = [split for split in SPLITS if images.get(split) == 0]
    if empty:
        shown = ", ".join(printable(top) for top in list(tops)[:8]) or "nothing"
        raise DataError(
            f"dataset.source.splits.{empty[0]}: no image in {source.splits[empty[0]]!r} of {source.path}",
            found=f"at the top: {shown}{', …' if len(tops) > 8 else ''}; "
            f"images in the other splits: {sum(images.values())}",
            expected=LAYOUT,
        )
    return classes, bad


def plan(source: ImageFolderSource, max_pixels: int) -> Plan:
    """List the images: by name in a folder, in its own order in a tar, which is read twice (names, bytes).

    Raises:
        DataError: nothing at the path, a split without images, a damaged tar, or a class without a name.
    """
    root = need_source(Path(source.path), LAYOUT)
    places = _Places(source)
    found, bad = _survey(source, places)
    classes = _classes(source, found)
    names = [name for _, name in classes.values()]
    captions = {name: captions_of(name, source.templates) for name in [*names, None]}

    def items() -> Iterator[tuple[SplitName, int, Any]]:
        given: set[str] = set()
        for entry in _list(source, max_bytes=byte_limit(max_pixels)):
            place = places.split(entry.name) if isinstance(entry, Member) else None
            if isinstance(entry, Bad) or place is None or not is_image(entry.name) or entry.name in given:
                continue
            split, below = place
            if source.classes == "folders" and len(below) == 1:
                continue
            given.add(entry.name)
            label, label_name = classes[below[0]] if source.classes == "folders" else (None, None)
            image_id = printable(entry.name)
            if split == "train":
                split = split_of(image_id, source.holdout)
            path = str(root / entry.name) if root.is_dir() else ""
            weight = len(entry.data or b"")
            item = Item(image_id, path, entry.num_bytes, entry.data, label, label_name, captions[label_name])
            yield split, weight, item

    return Plan(chunked(items()), classes=names, bad=bad)


def load(source: ImageFolderSource, chunk: Chunk, max_pixels: int) -> Iterator[Record | Bad]:
    """Decode a chunk's images, from their files or from the bytes that came out of the tar."""
    for item in chunk.items:
        if item.path:
            image = read_image(item.image_id, Path(item.path), max_pixels)
        elif item.data is None:
            image = Bad(item.image_id, "too_many_bytes", f"{item.num_bytes} bytes in the tar; not read")
        else:
            image = decode_image(item.image_id, item.data, max_pixels)
        if isinstance(image, Bad):
            yield image
        else:
            yield Record(item.image_id, image, item.captions, item.label, item.label_name)


IMAGE_FOLDER = Adapter(plan, load, LAYOUT)
