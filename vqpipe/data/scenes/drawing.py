"""A scene as pixels: the picture, the map of parts and objects, and the visible box of every object.

An object's polygons are rasterised by Pillow, all layers in one image at several samples per pixel, and coloured by
NumPy on a small tile of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, cos, floor, radians, sin
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from PIL import Image, ImageDraw

from vqpipe.data.scenes.backdrop import backdrop, mood
from vqpipe.data.scenes.grammar import KIND_OF, OBJECTS, PARTS
from vqpipe.data.scenes.layout import Item, Scene
from vqpipe.data.scenes.shapes import SHAPES, furred
from vqpipe.data.scenes.surface import (
    WHITE,
    Area,
    Colour,
    Plane,
    colour_of,
    decay,
    light,
    material,
    mix,
    partner,
    pattern,
    rgb,
    sine,
    soft,
)
from vqpipe.runtime.seeds import numpy_rng

Points = Float64[np.ndarray, "n 2"]

OUTLINE: Final = 0.0105
"""How far the line around a thing reaches beyond it, a share of the picture."""
TUFT: Final = 0.026
"""Distance between the tips of a furry outline, a share of the picture."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A shape made ready: its corners around the centre of the unit box, each polygon's slice of them and its
    layer.

    `rim` states which polygons reach the outline; the line around the thing needs no others. `drops` shifts
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
        """The part of the tile inside the picture: rows and columns of the picture, rows and columns of the tile."""
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


Canvas = Float32[np.ndarray, "3 r r"]

ROLES: Final[dict[str, Colour]] = {
    "dark": colour_of(38, 36, 44), "light": colour_of(248, 248, 244), "cream": colour_of(244, 232, 204),
    "bark": colour_of(116, 76, 46), "leaf": colour_of(64, 140, 62), "gold": colour_of(244, 196, 66),
    "beak": colour_of(242, 158, 48), "blush": colour_of(240, 158, 160), "brick": colour_of(178, 74, 58),
    "roof": colour_of(150, 66, 58), "pane": colour_of(250, 226, 140), "glass": colour_of(176, 214, 236),
    "steel": colour_of(172, 176, 184), "coffee": colour_of(92, 58, 40),
}  # fmt: skip
"""Colours of details. In addition, `body` has the thing's own colour, `shade` and `tint` a darker and a
lighter one."""
OWN_ROLES: Final = ("body", "shade", "tint")
"""The roles that carry the thing's own colour and pattern."""
BROKEN: Final = np.array((
    (-0.3, -0.3), (0.40, -0.3), (0.46, 0.10), (0.60, 0.16), (0.62, 0.34), (0.80, 0.34), (0.84, 0.52), (1.3,
        0.50), (1.3, -0.3),
)) - 0.5  # fmt: skip
"""What a broken thing lacks: a jagged piece of its unit box, around the box's centre."""
CRACK: Final = np.array((
    (0.34, 0.02), (0.52, 0.26), (0.40, 0.44), (0.60, 0.62), (0.48, 0.78), (0.62, 1.0),
    (0.70, 1.02), (0.58, 0.78), (0.70, 0.60), (0.50, 0.44), (0.62, 0.26), (0.42, 0.0),
)) - 0.5  # fmt: skip


def transform(item: Item, points: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    """Put points around the unit box's centre into the picture: mirror, shear, scale, turn, shift."""
    tilt, width = radians(item.tilt), -item.width if item.mirrored else item.width
    across = width * np.array((cos(tilt), sin(tilt)))
    down = item.height * np.array((-sin(tilt) - item.shear * cos(tilt), cos(tilt) - item.shear * sin(tilt)))
    return points[:, :1] * across + points[:, 1:] * down + (item.x, item.y)


def paint(canvas: Canvas, item: Item, supersample: int, phase: float) -> tuple[Tile, Plane]:
    """Paint an object into the picture, in place.

    Args:
        canvas: sRGB in [0, 255].
        item: the object.
        supersample: samples per pixel and axis.
        phase: in [0, 1), where textures start.

    Returns:
        The object's tile and its cover of the tile in [0, 1], not cut at the picture's frame.
    """
    stack = Stack.of(item.noun)
    tile, masks = rasterise(
        stack, transform(item, stack.corners), canvas.shape[1], supersample,
        ragged="furry" in item.words,
        cut=transform(item, BROKEN) if "broken" in item.words else None,
        extra=transform(item, CRACK) if "cracked" in item.words else None,
    )  # fmt: skip
    cover = masks[0]
    u, v = _local(item, tile)
    own = rgb(next(word for word in item.words if KIND_OF[word] == "colour"))
    area = np.empty((3, tile.height, tile.width), np.float32)
    area[:] = own * np.float32(0.22) + np.float32(8.0)
    motif = next((word for word in item.words if KIND_OF[word] == "pattern"), None)
    second = pattern(motif, u, v, phase, phase > 0.5) if motif else None
    for role, share in zip(stack.roles, masks[1:], strict=False):
        mix(area, share, _tone(role, own))
        if second is not None and role in OWN_ROLES:
            mix(area, share * second, _tone(role, partner(own)))
    _finish(area, item, tile, u, v, masks, phase)
    if "glowing" in item.words:
        _halo(canvas, item)
    rows, cols, trows, tcols = tile.window(canvas.shape[1])
    opacity = np.float32(0.66 if "glassy" in item.words else 1.0)
    mix(canvas[:, rows, cols], cover[trows, tcols] * opacity, area[:, trows, tcols])
    return tile, cover


def _local(item: Item, tile: Tile) -> tuple[Plane, Plane]:
    """Distances from the thing's centre along its own axes, as shares of the picture; they broadcast to the
    tile."""
    across, down = tile.grid()
    du, dv = across - np.float32(item.x), down - np.float32(item.y)
    if not item.tilt:
        return du, dv
    c, s = np.float32(cos(radians(item.tilt))), np.float32(sin(radians(item.tilt)))
    return du * c + dv * s, dv * c - du * s


def _tone(role: str, own: Colour) -> Colour:
    if role == "body":
        return own
    if role == "shade":
        return own * np.float32(0.70)
    return own * np.float32(0.68) + WHITE * np.float32(0.32) if role == "tint" else ROLES[role]


def _finish(
    area: Area, item: Item, tile: Tile, u: Plane, v: Plane, masks: Float32[np.ndarray, "k h w"], phase: float
) -> None:  # fmt: skip
    """Shading, material, state and light over the painted layers."""
    nu, nv = u * np.float32(2 / item.width), v * np.float32(2 / item.height)
    area *= 1.04 - 0.09 * nu - 0.13 * nv
    for word in item.words:
        kind = KIND_OF[word]
        if kind == "material" or word == "golden":
            material(word, area, u, v, phase)
        elif word == "cracked":
            mix(area, masks[-1], colour_of(24, 20, 22))
        elif kind == "condition":
            _condition(word, area, tile, u, v, nv, masks[0], phase)
        elif kind == "light":
            light(word, area, nu, nv)
    np.minimum(area, 255.0, out=area)


def _condition(
    word: str, area: Area, tile: Tile, u: Plane, v: Plane, nv: Plane, cover: Plane, phase: float
) -> None:
    if word == "muddy":
        edge = nv - 0.12 + 0.22 * sine(u * 44 + 6 * phase)
        mix(area, soft(edge, 3.0) * 0.92, colour_of(104, 72, 40))
    elif word in ("snowy", "mossy"):
        depth = max(2, round(0.055 * tile.resolution))
        above = np.zeros_like(cover)
        above[depth:] = cover[:-depth]
        cap = colour_of(252, 253, 255) if word == "snowy" else colour_of(76, 132, 44)
        wave = 1.0 if word == "snowy" else soft(sine(u * 50 + 9 * phase) + sine(v * 57 - 31 * u) + 0.7, 0.9)
        mix(area, np.clip(cover - above, 0.0, 1.0) * wave, cap)
        if word == "mossy":
            mix(area, soft(sine(u * 37 + 5 * phase) + sine(v * 43 + 19 * u) - 0.7, 1.2) * 0.85, cap)


def _halo(canvas: Canvas, item: Item) -> None:
    grid = (np.arange(canvas.shape[1], dtype=np.float32) + 0.5) / canvas.shape[1]
    across = decay(((grid - item.x) / (0.72 * item.width + 0.04)) ** 2)
    down = decay(((grid - item.y) / (0.72 * item.height + 0.04)) ** 2)
    mix(canvas, np.float32(0.9) * down[:, None] * across[None, :], colour_of(255, 246, 190))


def shadow(canvas: Canvas, item: Item) -> None:
    """Darken the ground under a standing object, softly and in place."""
    r = canvas.shape[1]
    bottom = item.box[3]
    top, end = (min(max(round((bottom + d) * r), 0), r) for d in (-0.09, 0.09))
    grid = (np.arange(r, dtype=np.float32) + 0.5) / r
    across = decay(np.square(((grid - item.x - 0.02) / (0.56 * item.width)) ** 2))
    down = decay(((grid[top:end] - bottom + 0.005) / 0.032) ** 2)
    canvas[:, top:end] *= 1.0 - 0.52 * down[:, None] * across[None, :]


def write_segment(target: UInt8[np.ndarray, "r r"], tile: Tile, cover: Plane, index: int) -> None:
    """Write `index` into a map where the cover is more than half, in place."""
    rows, cols, trows, tcols = tile.window(target.shape[0])
    target[rows, cols][cover[trows, tcols] > 0.5] = index


SEGMENTS: Final[tuple[str, ...]] = ("background", *PARTS, *OBJECTS)
"""Names of the values of a segmentation map; 0 does not occur, for every pixel belongs to a part or an
object."""
_INDEX: Final[dict[str, int]] = {name: i for i, name in enumerate(SEGMENTS)}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn scene. `boxes` are (x, y, width, height) in pixels around what is visible of each item,
    `visible` the shares of the items that neither others nor the frame hide, `instances` the item index + 1
    per pixel, or 0."""

    image: UInt8[np.ndarray, "r r 3"]
    segmentation: UInt8[np.ndarray, "r r"]
    instances: UInt8[np.ndarray, "r r"]
    boxes: tuple[tuple[float, float, float, float], ...]
    visible: tuple[float, ...]


def draw(scene: Scene, resolution: int, supersample: int = 4) -> Drawing:
    """Draw a scene at any resolution; what has no word in it is drawn from the scene's own seed.

    Args:
        scene: the scene.
        resolution: height and width in pixels.
        supersample: samples per pixel and axis along the edges of objects.
    """
    rng = numpy_rng(scene.look, "scenes", "look")
    phases = rng.random(4)
    canvas, seg = backdrop(scene, resolution, rng, _INDEX)
    instances = np.zeros((resolution, resolution), np.uint8)
    full: list[int] = []
    carried = {upper for upper, _ in scene.rests}
    for number, item in enumerate(scene.items):
        if SHAPES[item.noun].zone == "ground" and number not in carried:
            shadow(canvas, item)
    for number, item in enumerate(scene.items):
        tile, cover = paint(canvas, item, supersample, float(phases[number]))
        write_segment(seg, tile, cover, _INDEX[item.noun])
        write_segment(instances, tile, cover, number + 1)
        full.append(int((cover > 0.5).sum()))
    for word in scene.moods:
        mood(canvas, word, rng)
    image = np.ascontiguousarray(np.clip(canvas + 0.5, 0.0, 255.0).astype(np.uint8).transpose(1, 2, 0))
    boxes, visible = [], []
    for number, extent in enumerate(full):
        mask = instances == number + 1
        boxes.append(_box(mask))
        visible.append(round(int(mask.sum()) / max(1, extent), 4))
    return Drawing(image, seg, instances, tuple(boxes), tuple(visible))


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return (0.0, 0.0, 0.0, 0.0)
    return (
        float(columns[0]), float(rows[0]), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1),
    )  # fmt: skip
