"""Images with segmentation masks of the same names in a second folder, as in ADE20K's scene parsing release.

The mask of `images/training/x.jpg` is `annotations/training/x.png`: one number per pixel, 0 for none, then 1 to the
number of classes (Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017; release ADEChallengeData2016). An
image without a usable mask is quarantined; the detail names the mask. A mask without an image is an annotation that is
left out. Masks have the shape of their image as its file stores it, and are turned as its orientation turns it; their
own orientation does not count. A later stage resizes them by the nearest pixel and cuts them as it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, Self

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.Image import Transpose
from pydantic import Field, model_validator

from vqpipe.data.adapters.base import (
    Adapter,
    Chunk,
    Holdout,
    Plan,
    check_splits,
    decoded,
    need_source,
    shown,
    within,
)
from vqpipe.data.captions import BadCaption, clean_caption
from vqpipe.data.images import FORMATS, turn_of, upright, without_metadata
from vqpipe.data.records import Bad, Record, SplitName
from vqpipe.data.walk import Walk, is_image, other_file, read_image
from vqpipe.errors import DataError, printable
from vqpipe.params.base import Params

LAYOUT = (
    "below dataset.source.path a folder of images and one of PNG masks of the same names for each of "
    "dataset.source.splits, such as images/training/x.jpg and annotations/training/x.png (8 bits: 0 for none, then 1 "
    "to num_classes)"
)
MASK_ENDING = ".png"
GREY = 0
"""PNG's colour type of greyscale (PNG specification, 11.2.1), which Pillow scales to 0..255 below 8 bits."""


class MaskedFolders(Params):
    """Where one split is, relative to the source's path."""

    images: str = Field(min_length=1)
    """Folder of the images, at any depth."""
    masks: str = Field(min_length=1)
    """Folder of the masks: the paths of the images below theirs, with the ending .png."""


class ImageMasksSource(Params):
    """Folders of images, and of masks with the same names."""

    kind: Literal["image_masks"]
    """Names this source."""
    path: str = Field(min_length=1)
    """The folder that contains everything."""
    splits: dict[SplitName, MaskedFolders]
    """Folders of each split that exists as such; `train` must be there."""
    holdout: Holdout
    """Shares of train that become the splits that do not exist as such."""
    num_classes: int = Field(ge=1, le=255)
    """Classes of pixels: the largest number that a mask may have."""
    class_names: str | None
    """Names of the classes: a file relative to `path` with a name on each line; or with the class number, any other
    columns and the name, separated by tabs, and a line of headings (ADE20K's objectInfo150.txt). Of synonyms after a
    comma or semicolon the first counts. Null: "class 1", "class 2", …"""
    captions: tuple[str, ...]
    """Captions of every image; may be empty."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_splits(set(self.splits), self.holdout)
        folders = [
            PurePosixPath(folder) for own in self.splits.values() for folder in (own.images, own.masks)
        ]
        for at, folder in enumerate(folders):
            for other in folders[:at]:
                if folder.is_relative_to(other) or other.is_relative_to(folder):
                    raise ValueError(f"splits: {other} and {folder} are not separate folders")
        return self


@dataclass(frozen=True, slots=True)
class _Listed(Record):
    """A record with the file of its mask, relative to the source's path."""

    mask: str = ""


class ImageMasks(Adapter):
    """Images, and a class for each of their pixels."""

    kind = "image_masks"
    Params = ImageMasksSource
    layout = LAYOUT

    def plan(self, source: ImageMasksSource, max_pixels: int) -> Plan:
        """List the images as `vqpipe.data.walk` does, and name the classes of pixels.

        Raises:
            DataError: a folder or file of the params is missing, or the names are not those of `num_classes` classes.
        """
        names = class_names(source)
        return replace(super().plan(source, max_pixels), categories=names)

    def records(self, source: ImageMasksSource) -> Iterator[Record | Bad]:
        """The images in the order of their names, each with its mask's file; then the masks without an image."""
        root = need_source(Path(source.path), LAYOUT)
        for split, own in source.splits.items():
            within(root, own.images, f"dataset.source.splits.{split}.images", LAYOUT)
            within(root, own.masks, f"dataset.source.splits.{split}.masks", LAYOUT)
        used: set[str] = set()
        for entry in Walk(root, [own.images for own in source.splits.values()]):
            if isinstance(entry, Bad):
                yield entry
            elif not is_image(entry):
                yield other_file(entry)
            else:
                split, mask = _place(source, entry)
                used.add(mask)
                yield _Listed(
                    printable(entry), root / entry, captions=source.captions, split=split, mask=mask
                )
        for entry in Walk(root, [own.masks for own in source.splits.values()]):
            if isinstance(entry, str) and is_image(entry) and entry not in used:
                yield Bad(printable(entry), "orphan_annotation", "a mask without an image of its name", 1)

    def load(self, source: ImageMasksSource, chunk: Chunk, max_pixels: int) -> Iterator[Record | Bad]:
        """Read a chunk's images and their masks."""
        root = Path(source.path)
        for item in chunk.items:
            found = decoded(item, max_pixels, root)
            if isinstance(found, _Listed):
                assert isinstance(item, Record)
                assert isinstance(item.image, Path)
                mask = read_mask(root, found, turn_in(item.image), source.num_classes, max_pixels)
                yield mask if isinstance(mask, Bad) else replace(found, segmentation=mask)
            else:
                yield found


def _place(source: ImageMasksSource, name: str) -> tuple[SplitName, str]:
    """The split of an image, and the name of its mask."""
    path = PurePosixPath(name)
    for split, own in source.splits.items():
        if path.is_relative_to(own.images):
            inner = path.relative_to(own.images).with_suffix(MASK_ENDING)
            return split, str(own.masks / inner)
    raise AssertionError(f"{name} is in no split's folder")


def turn_in(path: Path) -> Transpose | None:
    """How `vqpipe.data.images.decode` turned an image file that it could decode; None for not at all."""
    data = path.read_bytes()
    try:
        return _turn_of(data)
    except Exception:  # metadata stops the decoder
        plain = without_metadata(data)
        assert plain is not None, f"{path} was decoded"
        return plain.turn if plain.turn is not None else _turn_of(plain.data)


def _turn_of(data: bytes) -> Transpose | None:
    """The orientation of a file that can be decoded; read first, since a TIFF loses it in decoding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            turn = turn_of(image)
            image.load()
            return turn


def read_mask(
    root: Path, record: _Listed, turn: Transpose | None, num_classes: int, max_pixels: int
) -> UInt8[np.ndarray, "h w"] | Bad:
    """The mask of a decoded record, or why it cannot be used, as for an image.

    A number above `num_classes`, and pixels that are not one number of 8 bits, are `unsupported_pixels`.

    Args:
        turn: how the record's image was turned to be upright; the mask is turned alike.
    """

    def bad(reason: str, detail: str) -> Bad:
        return Bad(record.image_id, reason, f"mask {printable(record.mask)}: {detail}")

    path = root / record.mask
    whole = read_image(record.image_id, path, max_pixels, root)  # which knows why a file is no image
    if isinstance(whole, Bad):
        return bad(whole.reason, whole.detail)
    data = path.read_bytes()
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        return bad("undecodable", f"not a plain PNG: {type(error).__name__}")
    depth, colour = data[24:26]
    if image.mode not in ("L", "P") or (colour == GREY and depth != 8):
        return bad(
            "unsupported_pixels", f"mode {image.mode} of {depth} bits, not one number of 8 bits a pixel"
        )
    values = np.array(upright(image, turn))
    if values.shape != record.pixels.shape[:2]:
        sides = [f"{shape[1]} x {shape[0]}" for shape in (values.shape, record.pixels.shape)]
        turned = "" if turn is None else ", turned as the image"
        return bad("size_mismatch", f"{sides[0]} pixels{turned}; the image has {sides[1]}")
    if int(values.max()) > num_classes:
        return bad("unsupported_pixels", f"number {int(values.max())}; there are {num_classes} classes")
    return values


def class_names(source: ImageMasksSource) -> list[str]:
    """The names of the numbers from 1 on.

    Raises:
        DataError: the file is missing or is not text, a line gives no name, or the numbers are not 1 to `num_classes`.
    """
    if source.class_names is None:
        return [f"class {number}" for number in range(1, source.num_classes + 1)]
    where = "dataset.source.class_names"
    path = within(need_source(Path(source.path), LAYOUT), source.class_names, where, LAYOUT)
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: {path} cannot be read", found=error, expected="a text file") from error
    rows = [[field.strip() for field in line.split("\t")] for line in lines]
    if rows and len(rows[0]) > 1 and not rows[0][0].isdecimal():
        rows = rows[1:]  # the headings
    numbered = [(row[0] if len(row) > 1 else str(at), row[-1]) for at, row in enumerate(rows, 1)]
    names: dict[str, str] = {}
    for number, name in numbered:
        try:
            names[number] = clean_caption(name.replace(";", ",").split(",")[0])
        except BadCaption as error:
            raise DataError(
                f"{where}: {path} has no name for class {printable(number)}", found=repr(name)
            ) from error
    wanted = [str(number) for number in range(1, source.num_classes + 1)]
    if [number for number, _ in numbered] != wanted:
        raise DataError(
            f"{where}: {path} does not name the classes 1 to {source.num_classes}",
            found=f"{len(numbered)} lines, with the numbers {shown([number for number, _ in numbered], 5)}",
            expected="dataset.source.num_classes lines, in the order of the numbers",
        )
    return [names[number] for number in wanted]
