"""COCO segmentations as pixels: polygons and run-length codes (plain or packed into a string)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from PIL import Image, ImageDraw


class BadMask(ValueError):
    """A segmentation that is neither polygons nor a run-length code of the image's shape."""


def finite_number(value: object) -> float | None:
    """A finite number from a JSON value: a number, or a string of one; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


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
    """A mask from polygons, each [x0, y0, x1, y1, …] in pixels, whose union is the object; empty ones are ignored.

    Raises:
        BadMask: a polygon of fewer than three points, or of something else than finite numbers.
    """
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        draw.polygon([(float(x), float(y)) for x, y in _points(polygon)], fill=1)
    return np.array(canvas)


def _points(polygon: Any) -> Float64[np.ndarray, "n 2"]:
    """The corners of a polygon: a flat list of coordinates, or a list of pairs."""
    try:
        points = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadMask("a polygon that is not a list of numbers") from error
    pairs = points.ndim == 2 and points.shape[1] == 2
    if not (pairs or points.ndim == 1) or points.size < 6 or points.size % 2 or not np.isfinite(points).all():
        raise BadMask("a polygon without three points")
    return points.reshape(-1, 2)


def _polygons(segmentation: list[Any]) -> list[Any]:
    """The polygons of a list: as COCO has them, or the single one that is written as numbers or pairs."""
    if segmentation and not any(isinstance(part, list) for part in segmentation):
        return [segmentation]
    pairs = len(segmentation) > 2 and all(isinstance(part, list) and len(part) == 2 for part in segmentation)
    if pairs and not any(isinstance(one, list) for part in segmentation for one in part):
        return [segmentation]
    return [part for part in segmentation if part not in ([], None)]


def bounds(segmentation: Any, mask: Bool[np.ndarray, "h w"]) -> list[float] | None:
    """The box [x, y, width, height] around a segmentation that `to_mask` read as `mask`; None around nothing.

    Around polygons it is that of their corners, as in COCO; around a run-length code that of its pixels.
    """
    if isinstance(segmentation, list):
        polygons = _polygons(segmentation)
        if not polygons:
            return None
        corners = np.concatenate([_points(polygon) for polygon in polygons])
        low, high = corners.min(axis=0), corners.max(axis=0)
        return [float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    top, left = float(rows[0]), float(columns[0])
    return [left, top, float(columns[-1]) + 1 - left, float(rows[-1]) + 1 - top]


def to_mask(segmentation: Any, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """The mask of a COCO annotation's `segmentation`, of shape (height, width).

    Raises:
        BadMask: neither polygons nor a run-length code of this shape.
    """
    if isinstance(segmentation, list):
        return polygons_to_mask(_polygons(segmentation), height, width)
    if not isinstance(segmentation, dict):
        raise BadMask("a segmentation that is neither polygons nor a run-length code")
    shape = segmentation.get("size")
    if not isinstance(shape, list) or [finite_number(side) for side in shape] != [height, width]:
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
