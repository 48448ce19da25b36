"""COCO: image folders with captions and instances json files; and captions json alone.

The json files list the images. An image that has no file, or no caption where its split has captions, is
quarantined; image files that no json lists are ignored; annotations of an image that no json lists are noted. Boxes and
masks are those of `instances`; crowds are in the segmentation and not among the things. Where masks overlap, the
smaller object is on top. Ids are compared as `identifier` writes them, numbers may be strings, and a missing box is
that of the mask. Boxes are always [x, y, width, height].
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import UInt8
from pydantic import Field, model_validator

from vqpipe.data.adapters.base import (
    Adapter,
    Chunk,
    Holdout,
    Plan,
    check_splits,
    chunked,
    need_source,
    shown,
    split_of,
    within,
)
from vqpipe.data.adapters.caption_files import (
    ENCODING_OPTION,
    EncodedCorpus,
    RawCaption,
    corpus_files,
    id_or_place,
    packed_endings,
)
from vqpipe.data.captions import BadCaption, Unusable, clean_caption, identifier
from vqpipe.data.images import resize_labels
from vqpipe.data.masks import BadMask, bounds, finite_number, to_mask
from vqpipe.data.records import SPLITS, Bad, Record, SplitName, Thing
from vqpipe.data.structured_files import EVERY, TOP, JsonArrays
from vqpipe.data.walk import is_inside, read_image
from vqpipe.errors import DataError, printable
from vqpipe.params.base import Params

LAYOUT = """COCO layout below dataset.source.path, named in dataset.source.splits, such as
train2017/000000000009.jpg …
annotations/captions_train2017.json   (images: id, file_name; annotations: image_id, caption)
annotations/instances_train2017.json  (annotations: image_id, category_id, bbox, segmentation; categories)"""
MAX_CATEGORIES = 255


class CocoSplit(Params):
    """Where one split of a COCO layout is, relative to the source's path."""

    images: str = Field(min_length=1)
    """Folder with the image files."""
    captions: str | None = None
    """The captions json; null when the images have none."""
    instances: str | None = None
    """The instances json (boxes, segmentation); null when the images have none."""

    @model_validator(mode="after")
    def _has_annotations(self) -> Self:
        if self.captions is None and self.instances is None:
            raise ValueError("give captions or instances: a COCO split is listed by its json")
        return self


class CocoSource(Params):
    """COCO layout: image folders, and json files with captions and instances."""

    kind: Literal["coco"]
    """Names this source."""
    path: str = Field(min_length=1)
    """Root folder of the data."""
    splits: dict[SplitName, CocoSplit]
    """Folder and json files of each split that exists as such; `train` must be there."""
    holdout: Holdout
    """Shares of train that become the splits that do not exist as such."""

    @model_validator(mode="after")
    def _one_origin_each(self) -> Self:
        check_splits(set(self.splits), self.holdout)
        return self


class CocoCorpus(EncodedCorpus):
    """The captions of COCO captions json, of Karpathy's split file (its training images), of a list of objects with
    `caption`, or of an object of lists of captions by image. No image is needed. Usual ending: .json."""

    kind: Literal["coco"]
    """Names this kind."""


@dataclass(slots=True)
class _Item:
    """One listed image; `annotations` has each instance's category id and its own json text."""

    image_id: str
    file_name: str
    shape: tuple[int, int] | None
    captions: list[str] = field(default_factory=list)
    annotations: list[tuple[str, str]] = field(default_factory=list)
    path: str = ""
    needs_caption: bool = False
    categories: dict[str, tuple[int, str]] | None = None
    """Number in the segmentation and name by category id; shared by all items; None without instances."""


class _Listing:
    """What the json files of one split list; `num_annotations` counts the usable and the others."""

    def __init__(self, split: SplitName) -> None:
        self.split = split
        self.items: dict[str, _Item] = {}
        self.categories: dict[str, str] = {}
        self.bad: list[tuple[str, Bad]] = []
        self.num_annotations = 0

    def note(self, item: str, reason: str, detail: str, annotations: int = 0) -> None:
        self.bad.append((self.split, Bad(printable(item), reason, printable(detail), annotations)))

    def read(self, path: Path, kind: str) -> None:
        """Add a captions or instances json in one pass, in any order of its arrays."""
        source = JsonArrays(path)
        seen: set[str] = set()
        annotations: list[tuple[str, str | None, Any]] = []
        for key, element, start, end in source.elements("images", "annotations", "categories"):
            own = int(key == "annotations")
            self.num_annotations += own
            if not isinstance(element, dict):
                self.note(f"{key} of {path.name}", "bad_annotation", "not an object", own)
            elif key == "images":
                self._add_image(element, seen, path.name)
            elif key == "categories":
                self._add_category(element, path)
            elif (image_id := identifier(element.get("image_id"))) is None:
                self.note(f"annotations of {path.name}", "bad_annotation", "no image_id", own)
            elif kind == "captions":
                annotations.append((image_id, identifier(element.get("id")), element.get("caption")))
            else:
                text = source.text[start:end].encode("utf-8", "replace").decode("utf-8")
                content = (identifier(element.get("category_id")), text)
                annotations.append((image_id, identifier(element.get("id")), content))
        if not seen:
            raise DataError(
                f"{path} lists no images",
                found="no usable element under images",
                expected=LAYOUT.splitlines(),
            )
        orphans: dict[str, int] = {}
        given: dict[str, tuple[str, Any]] = {}
        for image_id, own_id, content in annotations:
            item = self.items.get(image_id)
            if item is None:
                orphans[image_id] = orphans.get(image_id, 0) + 1
            elif own_id in given and given[own_id] == (image_id, content):
                self.note(image_id, "duplicate_annotation", f"{own_id} is in {path.name} twice")
            else:  # an id of several different annotations is ignored
                if own_id is not None:
                    given.setdefault(own_id, (image_id, content))
                self._add_annotation(item, kind, content)
        for image_id, count in orphans.items():
            detail = f"{count} annotations in {path.name}; no such image is listed"
            self.note(image_id, "orphan_annotation", detail, count)

    def _add_image(self, image: dict[str, Any], seen: set[str], name: str) -> None:
        image_id = identifier(image.get("id"))
        if image_id is None or not isinstance(image.get("file_name"), str):
            self.note(f"images of {name}", "bad_annotation", "no id or no file_name")
            return
        if image_id in seen:
            self.note(image_id, "duplicate_id", f"listed twice in {name}")
            return
        seen.add(image_id)
        item = self.items.setdefault(image_id, _Item(image_id, image["file_name"], None))
        item.shape = item.shape or _shape(image)

    def _add_category(self, category: dict[str, Any], path: Path) -> None:
        category_id = identifier(category.get("id"))
        if category_id is None:
            self.note(f"categories of {path.name}", "bad_annotation", f"no id: {category!r}"[:80])
            return
        raw = category.get("name")
        name = printable(raw) if isinstance(raw, str) and raw.strip() else identifier(raw) or category_id
        if self.categories.setdefault(category_id, name) != name:
            raise DataError(
                f"{path}: category {category_id} has two names",
                found=f"{self.categories[category_id]}, {name}",
                expected="one name for an id",
            )

    def _add_annotation(self, item: _Item, kind: str, content: Any) -> None:
        if kind == "captions":
            try:
                item.captions.append(clean_caption(content))
            except BadCaption as error:
                self.note(item.image_id, error.reason, f"{content!r}"[:80], 1)
        elif content[0] is None:
            self.note(item.image_id, "bad_annotation", "no category_id", 1)
        else:
            item.annotations.append(content)

    def drop_unlisted(self, categories: dict[str, tuple[int, str]]) -> None:
        """Note the instances of categories that no json lists."""
        for item in self.items.values():
            kept = [entry for entry in item.annotations if entry[0] in categories]
            for category, _ in item.annotations:
                if category not in categories:
                    detail = (
                        f"category {category} is not listed" if categories else "no categories are listed"
                    )
                    self.note(item.image_id, "bad_annotation", detail, 1)
            item.annotations = kept


def _shape(image: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) of an image's json in whole pixels, or None."""
    sides = finite_number(image.get("height")), finite_number(image.get("width"))
    if any(side is None or side < 1 or side != int(side) for side in sides):
        return None
    return int(sides[0]), int(sides[1])  # type: ignore[arg-type]


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


def _number(listings: Iterable[_Listing]) -> dict[str, tuple[int, str]]:
    """Categories of all splits, numbered from 1 in the order of their ids.

    Raises:
        DataError: two splits disagree about a name, or there are more than a uint8 map can have.
    """
    names: dict[str, str] = {}
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
    return {category: (at, names[category]) for at, category in enumerate(sorted(names, key=_order), start=1)}


def _order(name: str) -> tuple[int, int, str]:
    """By id: whole numbers first, in their order, then all others."""
    digits = name.removeprefix("-")
    whole = digits.isascii() and digits.isdecimal() and len(digits) < 20
    return (0, int(name), name) if whole else (1, 0, name)


class Coco(Adapter):
    """COCO's images with captions and objects, or the captions json alone."""

    kind = "coco"
    Params = CocoSource
    CaptionParams = CocoCorpus
    gives = ("images", "captions")
    layout = LAYOUT
    caption_layout = (
        'json such as {"annotations": [{"image_id": 1, "caption": "a red bus"}]}, '
        '[{"image": "1.jpg", "caption": "a red bus"}] or {"1.jpg": ["a red bus"]}'
    )
    endings = packed_endings(".json")
    may_be_pairs = True

    def plan(self, source: CocoSource, max_pixels: int) -> Plan:
        """Read the json files and list the images of each split in the order of their ids.

        Raises:
            DataError: a file or folder of the params is missing, a json is damaged, or the splits disagree.
        """
        root = need_source(Path(source.path), LAYOUT)
        listings = [
            _list_split(root, split, source.splits[split]) for split in SPLITS if split in source.splits
        ]
        categories = _number(listings)
        for listing in listings:
            listing.drop_unlisted(categories)
        bad = [entry for listing in listings for entry in listing.bad]
        work: list[tuple[SplitName, int, _Item]] = []
        seen: set[str] = set()
        placed: dict[str, tuple[SplitName, SplitName]] = {}
        for listing in listings:
            for item in sorted(listing.items.values(), key=lambda item: _order(item.image_id)):
                if item.image_id in seen:
                    detail = f"an earlier split has this id; {printable(item.file_name)} is left out"
                    bad.append((listing.split, Bad(item.image_id, "duplicate_id", detail)))
                    continue
                seen.add(item.image_id)
                # A file may be listed under several ids, as one for each expression: all are in one split.
                split = split_of(item.image_id, source.holdout) if listing.split == "train" else listing.split
                first, split = placed.setdefault(os.path.realpath(item.path), (listing.split, split))
                if first != listing.split:
                    detail = f"{printable(item.file_name)} is in {first}"
                    lost = len(item.captions) + len(item.annotations)
                    bad.append((listing.split, Bad(item.image_id, "duplicate_path", detail, lost)))
                    continue
                if item.categories is not None:
                    item.categories = categories
                work.append((split, 0, item))
        return Plan(
            chunked(work),
            categories=[name for _, name in categories.values()],
            bad=bad,
            num_annotations=sum(listing.num_annotations for listing in listings),
        )

    def load(self, source: CocoSource, chunk: Chunk, max_pixels: int) -> Iterator[Record | Bad]:
        """Read a chunk's images, with boxes and segmentation in pixels of the upright image."""
        for item in chunk.items:
            yield from _load_item(item, max_pixels, Path(source.path))

    def captions(self, source: CocoCorpus, noted: Unusable) -> Iterator[RawCaption]:
        """The captions of json files, in the order of their names."""
        for _, file in corpus_files(source, self):
            yield from _captions_of_file(source, file, noted)


def _load_item(item: _Item, max_pixels: int, root: Path) -> Iterator[Record | Bad]:
    if not is_inside(item.file_name.replace("\\", "/")):
        yield Bad(item.image_id, "unsafe_path", printable(item.file_name))
        return
    image = read_image(item.image_id, Path(item.path), max_pixels, root)
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
        yield from faults
    yield Record(
        item.image_id, image, captions=tuple(item.captions), things=things, segmentation=segmentation
    )


def _instances(
    item: _Item, declared: tuple[int, int], shape: tuple[int, int]
) -> tuple[tuple[Thing, ...], UInt8[np.ndarray, "h w"], list[Bad]]:
    """Things and segmentation at `shape` (height, width), from annotations made at `declared`."""
    assert item.categories is not None
    things: list[Thing] = []
    masks: list[tuple[int, int, np.ndarray]] = []
    faults: list[Bad] = []
    for category, text in item.annotations:
        label, name = item.categories[category]
        annotation = json.loads(text)
        found: list[str] = []
        outline = None
        if annotation.get("segmentation"):
            try:
                mask = to_mask(annotation["segmentation"], *declared)
                masks.append((int(mask.sum()), label, mask))
                outline = bounds(annotation["segmentation"], mask)
            except BadMask as error:
                found.append(str(error))
        if not _is_set(annotation.get("iscrowd")):
            given = annotation.get("bbox") or outline
            box, outside = _box(given, declared, shape)
            if box is None:
                found.insert(0, f"no usable bbox: {given!r}"[:80])
            else:
                things.append(Thing(name, box))
                if outside > 1:
                    detail = f"{name}: {given!r} reaches {outside:g} pixels out of the image"
                    faults.append(Bad(item.image_id, "clipped_box", detail))
        faults += [
            Bad(item.image_id, "bad_annotation", f"{name}: {fault}", int(at == 0))
            for at, fault in enumerate(found)
        ]
    canvas = np.zeros(declared, dtype=np.uint8)
    for _, label, mask in sorted(masks, key=lambda entry: -entry[0]):
        canvas[mask] = label
    return tuple(things), resize_labels(canvas, shape), faults


def _is_set(flag: object) -> bool:
    """Whether a flag of the json is on, as a bool, a number or a word."""
    return flag.strip().lower() in ("1", "1.0", "true", "yes") if isinstance(flag, str) else bool(flag)


def _box(
    raw: Any, declared: tuple[int, int], shape: tuple[int, int]
) -> tuple[tuple[float, float, float, float] | None, float]:
    """(x, y, width, height) scaled from `declared` to `shape` and clipped, and how far it reached out of the image.

    The box is None when it is not four finite numbers or nothing is left of it; the reach is in pixels of
    `declared`.
    """
    numbers = [finite_number(one) for one in raw] if isinstance(raw, list | tuple) else []
    if len(numbers) != 4 or any(one is None for one in numbers):
        return None, 0.0
    x, y, width, height = (float(one) for one in numbers if one is not None)
    down, across = shape[0] / declared[0], shape[1] / declared[1]
    left, right = (min(max(at * across, 0.0), float(shape[1])) for at in (x, x + width))
    top, bottom = (min(max(at * down, 0.0), float(shape[0])) for at in (y, y + height))
    outside = max(-x, -y, x + width - declared[1], y + height - declared[0], 0.0)
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None, outside


def _captions_of_file(source: CocoCorpus, path: Path, noted: Unusable) -> Iterator[RawCaption]:
    """Captions of COCO's annotations, of Karpathy's images, of a list of objects, or of lists by image."""
    arrays = JsonArrays(path, source.encoding, ENCODING_OPTION)
    number = found = 0
    for key, element, _, _ in arrays.elements("annotations", "images", TOP):
        if key != "images":
            number += 1
            yield from _of_object(element, f"#{number}", noted)
        elif isinstance(element, dict) and isinstance(element.get("sentences"), list):
            found += 1
            yield from _of_karpathy(element, f"#{found}", noted)
    if number or found:
        return
    noted.hint = f"the keys of {path.name} are {', '.join(arrays.keys) or 'none'}"
    if not {"annotations", "images"}.isdisjoint(arrays.keys):
        return
    for key, element, _, _ in arrays.elements(TOP, EVERY):
        if isinstance(element, str):
            yield printable(key), element


_ID_FIELDS = ("image_id", "image", "file_name", "filename", "id")


def _of_object(element: object, place: str, noted: Unusable) -> Iterator[RawCaption]:
    """The captions of an annotation, or of an object of a list, which may name its image in another way."""
    if not isinstance(element, dict):
        yield place, None
        return
    key = next((key for key in _ID_FIELDS if key in element), "")
    captions = element.get("caption", element.get("captions"))
    if captions is None:
        noted.hint = f"the keys of an element are {shown([*map(str, element)], 8, 'none')}"
    for caption in captions if isinstance(captions, list) else [captions]:
        yield id_or_place(element.get(key), place, noted), caption


def _of_karpathy(image: dict[str, object], place: str, noted: Unusable) -> Iterator[RawCaption]:
    sentences = image["sentences"]
    assert isinstance(sentences, list)
    if image.get("split", "train") not in ("train", "restval"):
        noted.other_splits += len(sentences)
        noted.hint = "a split file of Karpathy's without an image whose split is train or restval"
        return
    named = next((image[key] for key in ("cocoid", "filename", "imgid") if key in image), None)
    for sentence in sentences:
        caption = sentence.get("raw") if isinstance(sentence, dict) else None
        yield id_or_place(named, place, noted), caption
