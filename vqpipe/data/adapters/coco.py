"""COCO layout: captions and instances json files beside image folders.

The json files list the images. An image that has no file, or no caption where its split has captions, is
quarantined; image files that no json lists are not looked at; annotations of an image that no json lists are
noted. Boxes and masks are those of `instances`; crowds are in the segmentation and not among the things.
Where masks overlap, the smaller object is on top.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vqpipe.data.adapters.base import Adapter, Chunk, Plan, chunked, need_source, read_image, split_of, within
from vqpipe.data.captions import BadCaption, clean_caption, printable
from vqpipe.data.images import resize_labels
from vqpipe.data.json_stream import JsonArrays
from vqpipe.data.masks import BadMask, to_mask
from vqpipe.data.records import Bad, Record, Thing
from vqpipe.errors import DataError
from vqpipe.params.dataset import SPLITS, CocoSource, CocoSplit, SplitName

LAYOUT = """COCO layout below dataset.source.path, named in dataset.source.splits, such as
            train2017/000000000009.jpg …
            annotations/captions_train2017.json   (images: id, file_name; annotations: image_id, caption)
            annotations/instances_train2017.json  (annotations: image_id, category_id, bbox,
                                                   segmentation; categories)"""
MAX_CATEGORIES = 255


@dataclass(slots=True)
class Item:
    """One listed image; `annotations` holds each instance's category id and its own json text."""

    image_id: str
    file_name: str
    shape: tuple[int, int] | None
    captions: list[str] = field(default_factory=list)
    annotations: list[tuple[int, str]] = field(default_factory=list)
    path: str = ""
    needs_caption: bool = False
    categories: dict[int, tuple[int, str]] | None = None
    """Number in the segmentation and name by category id; shared by all items; None without instances."""


class _Listing:
    """What the json files of one split list."""

    def __init__(self, split: SplitName) -> None:
        self.split = split
        self.items: dict[str, Item] = {}
        self.categories: dict[int, str] = {}
        self.bad: list[tuple[str, Bad]] = []

    def note(self, item: object, reason: str, detail: str) -> None:
        self.bad.append((self.split, Bad(printable(str(item)), reason, printable(detail))))

    def read(self, path: Path, kind: str) -> None:
        """Add a captions or instances json in one pass, whatever the order of its arrays."""
        source = JsonArrays(path)
        seen: set[str] = set()
        annotations: list[tuple[str, Any]] = []
        for key, element, start, end in source.elements("images", "annotations", "categories"):
            if not isinstance(element, dict):
                self.note(f"{key} of {path.name}", "bad_annotation", "not an object")
            elif key == "images":
                self._add_image(element, seen, path.name)
            elif key == "categories":
                self._add_category(element, path)
            elif "image_id" not in element:
                self.note(f"annotations of {path.name}", "bad_annotation", "no image_id")
            elif kind == "captions":
                annotations.append((str(element["image_id"]), element.get("caption")))
            else:
                text = source.text[start:end].encode("utf-8", "replace").decode("utf-8")
                annotations.append((str(element["image_id"]), (element.get("category_id"), text)))
        if not seen:
            raise DataError(
                f"{path} lists no images", found="no usable element under images", expected=LAYOUT
            )
        orphans: dict[str, int] = {}
        for image_id, content in annotations:
            item = self.items.get(image_id)
            if item is None:
                orphans[image_id] = orphans.get(image_id, 0) + 1
            elif kind == "captions":
                self._add_caption(item, content)
            elif content[0] not in self.categories:
                self.note(image_id, "bad_annotation", f"category {content[0]} is not listed")
            else:
                item.annotations.append(content)
        for image_id, count in orphans.items():
            self.note(
                image_id, "orphan_annotation", f"{count} annotations in {path.name}; no such image is listed"
            )

    def _add_image(self, image: dict[str, Any], seen: set[str], name: str) -> None:
        if "id" not in image or not isinstance(image.get("file_name"), str):
            self.note(f"images of {name}", "bad_annotation", "no id or no file_name")
            return
        image_id = printable(str(image["id"]))
        if image_id in seen:
            self.note(image_id, "duplicate_id", f"listed twice in {name}")
            return
        seen.add(image_id)
        height, width = image.get("height"), image.get("width")
        known = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
        item = Item(image_id, image["file_name"], (height, width) if known else None)  # type: ignore[arg-type]
        self.items.setdefault(image_id, item)

    def _add_category(self, category: dict[str, Any], path: Path) -> None:
        if not isinstance(category.get("id"), int):
            raise DataError(f"{path}: a category without a whole number as id", found=category)
        self.categories[category["id"]] = printable(str(category.get("name", category["id"])))

    def _add_caption(self, item: Item, raw: object) -> None:
        try:
            item.captions.append(clean_caption(raw))
        except BadCaption as error:
            self.note(item.image_id, error.reason, f"{raw!r}"[:80])


def _list_split(root: Path, split: SplitName, config: CocoSplit) -> _Listing:
    listing, name = _Listing(split), f"dataset.source.splits.{split}"
    folder = within(root, config.images, f"{name}.images", LAYOUT)
    for kind, relative in (("captions", config.captions), ("instances", config.instances)):
        if relative is not None:
            listing.read(within(root, relative, f"{name}.{kind}", LAYOUT), kind)
    for item in listing.items.values():
        item.path = str(folder / item.file_name)
        item.needs_caption = config.captions is not None
        item.categories = {} if config.instances is not None else None
    return listing


def _number(listings: Iterable[_Listing]) -> dict[int, tuple[int, str]]:
    """Categories of all splits, numbered from 1 in the order of their ids.

    Raises:
        DataError: two splits disagree about a name, or there are more than a uint8 map holds.
    """
    names: dict[int, str] = {}
    for listing in listings:
        for category, name in listing.categories.items():
            if names.setdefault(category, name) != name:
                raise DataError(
                    f"dataset.source.splits.{listing.split}: category {category} has another name elsewhere",
                    found=name, expected=names[category],
                )  # fmt: skip
    if len(names) > MAX_CATEGORIES:
        raise DataError(
            "too many categories for a uint8 map", found=len(names), expected=f"<= {MAX_CATEGORIES}"
        )
    return {category: (number, names[category]) for number, category in enumerate(sorted(names), start=1)}


def _order(item: Item) -> tuple[int, int, str]:
    """By id: numbers first, in their order, then all others."""
    number = item.image_id.isascii() and item.image_id.isdecimal()
    return (0, int(item.image_id), "") if number else (1, 0, item.image_id)


def plan(source: CocoSource, max_pixels: int) -> Plan:
    """Read the json files and list the images of each split in the order of their ids.

    Raises:
        DataError: a file or folder of the params is missing, a json is damaged, or the splits disagree.
    """
    root = need_source(Path(source.path), LAYOUT)
    listings = [_list_split(root, split, source.splits[split]) for split in SPLITS if split in source.splits]
    categories = _number(listings)
    bad = [entry for listing in listings for entry in listing.bad]
    work: list[tuple[SplitName, int, Item]] = []
    seen: set[str] = set()
    for listing in listings:
        for item in sorted(listing.items.values(), key=_order):
            if item.image_id in seen:
                bad.append((listing.split, Bad(item.image_id, "duplicate_id", "an earlier split has it")))
                continue
            seen.add(item.image_id)
            if item.categories is not None:
                item.categories = categories
            split = split_of(item.image_id, source.holdout) if listing.split == "train" else listing.split
            work.append((split, 0, item))
    return Plan(chunked(work), categories=[name for _, name in categories.values()], bad=bad)


def load(source: CocoSource, chunk: Chunk, max_pixels: int) -> Iterator[Record | Bad]:
    """Read a chunk's images, with boxes and segmentation in pixels of the image as it is on disk."""
    for item in chunk.items:
        yield from _load_item(item, max_pixels)


def _load_item(item: Item, max_pixels: int) -> Iterator[Record | Bad]:
    name = PurePosixPath(item.file_name.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts:
        yield Bad(item.image_id, "unsafe_path", printable(item.file_name))
        return
    image = read_image(item.image_id, Path(item.path), max_pixels)
    if isinstance(image, Bad):
        yield image
        return
    if item.needs_caption and not item.captions:
        yield Bad(item.image_id, "no_caption", "no usable caption in the captions json")
        return
    height, width = image.shape[:2]
    declared = item.shape or (height, width)
    if abs(math.log((height / width) / (declared[0] / declared[1]))) > 0.02:
        detail = f"{width} x {height} pixels; annotated at {declared[1]} x {declared[0]}"
        yield Bad(item.image_id, "size_mismatch", detail)
        return
    things: tuple[Thing, ...] = ()
    segmentation = None
    if item.categories is not None:
        things, segmentation, faults = _instances(item, declared, (height, width))
        yield from (Bad(item.image_id, "bad_annotation", fault) for fault in faults)
    yield Record(
        item.image_id, image, captions=tuple(item.captions), things=things, segmentation=segmentation
    )


def _instances(
    item: Item, declared: tuple[int, int], shape: tuple[int, int]
) -> tuple[tuple[Thing, ...], UInt8[np.ndarray, "h w"], list[str]]:
    """Things and segmentation at `shape` (height, width), from annotations made at `declared`."""
    assert item.categories is not None
    things: list[Thing] = []
    masks: list[tuple[int, int, np.ndarray]] = []
    faults: list[str] = []
    for category, text in item.annotations:
        number, name = item.categories[category]
        annotation = json.loads(text)
        if not annotation.get("iscrowd"):
            box = _box(annotation.get("bbox"), declared, shape)
            if box is None:
                faults.append(f"{name}: no usable bbox")
            else:
                things.append(Thing(name, box))
        if annotation.get("segmentation"):
            try:
                mask = to_mask(annotation["segmentation"], *declared)
                masks.append((int(mask.sum()), number, mask))
            except BadMask as error:
                faults.append(f"{name}: {error}")
    canvas = np.zeros(declared, dtype=np.uint8)
    for _, number, mask in sorted(masks, key=lambda entry: -entry[0]):
        canvas[mask] = number
    return tuple(things), resize_labels(canvas, shape), faults


def _box(
    raw: Any, declared: tuple[int, int], shape: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """(x, y, width, height) scaled from `declared` to `shape` and clipped; None when nothing is left."""
    if not isinstance(raw, list) or len(raw) != 4:
        return None
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in raw):
        return None
    down, across = shape[0] / declared[0], shape[1] / declared[1]
    left, right = (min(max(x * across, 0.0), float(shape[1])) for x in (raw[0], raw[0] + raw[2]))
    top, bottom = (min(max(y * down, 0.0), float(shape[0])) for y in (raw[1], raw[1] + raw[3]))
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


COCO = Adapter(plan, load, LAYOUT)
