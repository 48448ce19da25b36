"""Polygons to masks: all layers of one object in a single Pillow image, reduced to cover per pixel in one
go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, floor
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Float64
from PIL import Image, ImageDraw

from vqpipe.data.scenes.geometry import furred
from vqpipe.data.scenes.layout import SHAPES

Points = Float64[np.ndarray, "n 2"]

OUTLINE: Final = 0.0105
"""How far the line around a thing reaches beyond it, a share of the picture."""
TUFT: Final = 0.026
"""Distance between the tips of a furry outline, a share of the picture."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A shape made ready: its corners around the centre of the unit box, each polygon's slice of them and its
    layer.

    `rim` says which polygons reach the outline; the line around the thing needs no others. `drops` shifts
    each corner to its layer: (0, layer + 1).
    """

    corners: Points
    slices: tuple[slice, ...]
    layers: tuple[int, ...]
    rim: tuple[bool, ...]
    roles: tuple[str, ...]
    drops: Points

    @staticmethod
    @cache
    def of(noun: str) -> Stack:
        """The stack of a noun's shape."""
        shape = SHAPES[noun]
        slices, layers, start = [], [], 0
        for number, layer in enumerate(shape.layers):
            for polygon in layer.polygons:
                slices.append(slice(start, start + len(polygon)))
                layers.append(number)
                start += len(polygon)
        corners = shape.points()
        sized = corners * (shape.width, shape.height)
        drops = np.zeros_like(corners)
        for part, level in zip(slices, layers, strict=True):
            drops[part, 1] = level + 1
        rim = tuple(_on_rim(sized, slices, i) for i in range(len(slices)))
        roles = tuple(layer.role for layer in shape.layers)
        return Stack(corners - 0.5, tuple(slices), tuple(layers), rim, roles, drops)


def _on_rim(points: Points, slices: list[slice], which: int) -> bool:
    """Whether a grown polygon sticks out of the others' union."""

    def filled(parts: list[slice], grow: int) -> Bool[np.ndarray, "h w"]:
        image = Image.new("1", (160, 160))
        pen = ImageDraw.Draw(image)
        for part in parts:
            flat = (points[part] * 250 + 10).ravel().tolist()
            pen.polygon(flat, fill=1)
            pen.line([*flat, *flat[:4]], fill=1, width=grow)
        return np.asarray(image)

    others = [part for i, part in enumerate(slices) if i != which]
    return bool((filled([slices[which]], 1) & ~filled(others, 1)).any()) if others else True


class Tile:
    """A small window on the picture in which one object is painted; it may reach beyond the frame. In
    pixels."""

    __slots__ = ("height", "resolution", "width", "x0", "y0")

    def __init__(self, resolution: int, points: Points) -> None:
        margin = OUTLINE * resolution + 1
        self.resolution = resolution
        (x0, y0), (x1, y1) = points.min(axis=0) * resolution, points.max(axis=0) * resolution
        self.x0, self.y0 = floor(x0 - margin), floor(y0 - margin)
        self.width, self.height = ceil(x1 + margin) - self.x0, ceil(y1 + margin) - self.y0

    def grid(self) -> tuple[Float32[np.ndarray, "1 w"], Float32[np.ndarray, "h 1"]]:
        """Positions of the pixels' centres across and down, as shares of the picture."""
        across = (np.arange(self.x0, self.x0 + self.width, dtype=np.float32) + 0.5) / self.resolution
        down = (np.arange(self.y0, self.y0 + self.height, dtype=np.float32) + 0.5) / self.resolution
        return across[None, :], down[:, None]

    def window(self, resolution: int) -> tuple[slice, slice, slice, slice]:
        """What of the tile lies in the picture: rows and columns of the picture, rows and columns of the
        tile."""
        top, left = max(0, self.y0), max(0, self.x0)
        bottom, right = min(resolution, self.y0 + self.height), min(resolution, self.x0 + self.width)
        return (
            slice(top, bottom), slice(left, right),
            slice(top - self.y0, bottom - self.y0), slice(left - self.x0, right - self.x0),
        )  # fmt: skip


def rasterise(
    stack: Stack, points: Points, resolution: int, supersample: int, *, ragged: bool, cut: Points | None,
        extra: Points | None
) -> tuple[Tile, Float32[np.ndarray, "k h w"]]:  # fmt: skip
    """Draw the layers of a shape.

    Args:
        stack: the shape.
        points: its corners in the picture, as shares of it.
        resolution: height and width of the picture.
        supersample: samples per pixel and axis.
        ragged: give the body a furry outline.
        cut: a polygon that is missing from all layers.
        extra: a polygon for a last mask of its own.

    Returns:
        The tile, and masks in [0, 1]: the cover with the outline, one mask per layer, and `extra` where
        given.
    """
    tile = Tile(resolution, points)
    step = tile.height * supersample
    count = 1 + len(stack.roles) + (extra is not None)
    image = Image.new("L", (tile.width * supersample, step * count))
    pen = ImageDraw.Draw(image)
    scale = resolution * supersample
    shift = np.array((tile.x0 * supersample + 0.5, tile.y0 * supersample + 0.5))
    pixels = points * scale - shift
    wide = max(1, round(2 * OUTLINE * scale))
    high = pixels.ravel().tolist()
    low = (pixels + step * stack.drops).ravel().tolist()
    for part, layer, rim in zip(stack.slices, stack.layers, stack.rim, strict=True):
        ends = slice(2 * part.start, 2 * part.stop)
        flat, lowered = high[ends], low[ends]
        if ragged and stack.roles[layer] == "body":
            flat = furred(pixels[part], TUFT * scale).ravel().tolist()
            lowered = _lowered(flat, step * (layer + 1))
        if rim:
            pen.polygon(flat, fill=255)
            pen.line([*flat, *flat[:4]], fill=255, width=wide)
        pen.polygon(lowered, fill=255)
    if cut is not None:
        _remove(image, (cut * scale - shift).ravel().tolist(), step, count)
    if extra is not None:
        pen.polygon(_lowered((extra * scale - shift).ravel().tolist(), step * (count - 1)), fill=255)
    small = image.reduce(supersample) if supersample > 1 else image
    masks = np.asarray(small, np.float32).reshape(count, tile.height, tile.width)
    return tile, masks * np.float32(1 / 255)


def _lowered(flat: list[float], by: int) -> list[float]:
    out = flat.copy()
    out[1::2] = [y + by for y in flat[1::2]]
    return out


def _remove(image: Image.Image, flat: list[float], step: int, count: int) -> None:
    """Clear a polygon from every layer; it may reach out of a layer, so it is drawn on a layer of its own
    first."""
    hole = Image.new("L", (image.width, step))
    ImageDraw.Draw(hole).polygon(flat, fill=255)
    for number in range(count):
        image.paste(0, (0, number * step), hole)
