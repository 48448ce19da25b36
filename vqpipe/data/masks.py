"""COCO segmentations as pixels: polygons and run-length codes (plain or packed into a string)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw


class BadMask(ValueError):
    """A segmentation that is neither polygons nor a run-length code of the image's shape."""


def unpack_counts(packed: str) -> list[int]:
    """Run lengths from COCO's packed string.

    Each number is a little-endian chain of 5-bit groups, one character each (offset 48, bit 5: more follows,
    bit 4 of the last group: the sign); from the fourth number on it is the difference from the number two
    places before.
    """
    counts: list[int] = []
    value = shift = 0
    for char in packed:
        group = ord(char) - 48
        if not 0 <= group < 64:
            raise BadMask(f"character {char!r} in a run-length code")
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise BadMask("a run-length code that ends within a number")
    return counts


def runs_to_mask(counts: Sequence[int], height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """A mask from run lengths of, in turn, background and object, down the columns.

    Raises:
        BadMask: a negative run, or runs that do not add up to the image.
    """
    lengths = np.asarray(counts, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise BadMask(f"runs that do not cover {width} x {height} pixels")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(width, height).T


def polygons_to_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """A mask from polygons, each [x0, y0, x1, y1, …] in pixels, whose union is the object.

    Raises:
        BadMask: a polygon of fewer than three points, or of something else than finite numbers.
    """
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        try:
            points = np.asarray(polygon, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise BadMask("a polygon that is not a list of numbers") from error
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise BadMask("a polygon without three points")
        draw.polygon([(float(x), float(y)) for x, y in points.reshape(-1, 2)], fill=1)
    return np.array(canvas)


def to_mask(segmentation: Any, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """The mask of a COCO annotation's `segmentation`, of shape (height, width).

    Raises:
        BadMask: neither polygons nor a run-length code of this shape.
    """
    if isinstance(segmentation, list):
        return polygons_to_mask(segmentation, height, width)
    if not isinstance(segmentation, dict) or list(segmentation.get("size", ())) != [height, width]:
        raise BadMask("a segmentation that is not of the image's shape")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = unpack_counts(counts)
    if not isinstance(counts, list):
        raise BadMask("a run-length code without counts")
    try:
        return runs_to_mask(counts, height, width)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadMask(str(error)) from error
