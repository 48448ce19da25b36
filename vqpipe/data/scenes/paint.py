"""Objects as pixels: polygons rasterised by Pillow at several samples a pixel, coloured by numpy on small
tiles."""

from __future__ import annotations

from math import cos, radians, sin
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from vqpipe.data.scenes.layout import Item
from vqpipe.data.scenes.raster import Stack, Tile, rasterise
from vqpipe.data.scenes.surface import (
    WHITE,
    Area,
    Colour,
    Plane,
    colour_of,
    light,
    material,
    mix,
    partner,
    pattern,
    rgb,
    soft,
)
from vqpipe.data.scenes.words import KIND_OF

Canvas = Float32[np.ndarray, "3 r r"]

ROLES: Final[dict[str, Colour]] = {
    "dark": colour_of(38, 36, 44), "light": colour_of(248, 248, 244), "cream": colour_of(244, 232, 204),
    "bark": colour_of(116, 76, 46), "leaf": colour_of(64, 140, 62), "gold": colour_of(244, 196, 66),
    "beak": colour_of(242, 158, 48), "blush": colour_of(240, 158, 160), "brick": colour_of(178, 74, 58),
    "roof": colour_of(150, 66, 58), "pane": colour_of(250, 226, 140), "glass": colour_of(176, 214, 236),
    "steel": colour_of(172, 176, 184), "coffee": colour_of(92, 58, 40),
}  # fmt: skip
"""Colours of details. Besides these, `body` has the thing's own colour, `shade` and `tint` a darker and a
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
    a, b = radians(item.tilt), -item.width if item.mirrored else item.width
    shear = np.array(((b, 0.0), (-item.shear * item.height, item.height)))
    turn = np.array(((cos(a), sin(a)), (-sin(a), cos(a))))
    return points @ (shear @ turn) + (item.x, item.y)


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
        edge = nv - 0.12 + 0.22 * np.sin(u * 44 + 6 * phase)
        mix(area, soft(edge, 3.0) * 0.92, colour_of(104, 72, 40))
    elif word in ("snowy", "mossy"):
        depth = max(2, round(0.055 * tile.resolution))
        above = np.zeros_like(cover)
        above[depth:] = cover[:-depth]
        cap = colour_of(252, 253, 255) if word == "snowy" else colour_of(76, 132, 44)
        wave = (
            1.0 if word == "snowy" else soft(np.sin(u * 50 + 9 * phase) + np.sin(v * 57 - 31 * u) + 0.7, 0.9)
        )
        mix(area, np.clip(cover - above, 0.0, 1.0) * wave, cap)
        if word == "mossy":
            mix(area, soft(np.sin(u * 37 + 5 * phase) + np.sin(v * 43 + 19 * u) - 0.7, 1.2) * 0.85, cap)


def _halo(canvas: Canvas, item: Item) -> None:
    grid = (np.arange(canvas.shape[1], dtype=np.float32) + 0.5) / canvas.shape[1]
    across = np.exp(-(((grid - item.x) / (0.72 * item.width + 0.04)) ** 2))
    down = np.exp(-(((grid - item.y) / (0.72 * item.height + 0.04)) ** 2))
    mix(canvas, np.float32(0.9) * down[:, None] * across[None, :], colour_of(255, 246, 190))


def shadow(canvas: Canvas, item: Item) -> None:
    """Darken the ground under a standing object, softly and in place."""
    r = canvas.shape[1]
    bottom = item.box[3]
    top, end = (min(max(round((bottom + d) * r), 0), r) for d in (-0.09, 0.09))
    grid = (np.arange(r, dtype=np.float32) + 0.5) / r
    across = np.exp(-(((grid - item.x - 0.02) / (0.56 * item.width)) ** 4))
    down = np.exp(-(((grid[top:end] - bottom + 0.005) / 0.032) ** 2))
    canvas[:, top:end] *= 1.0 - 0.52 * down[:, None] * across[None, :]


def write_segment(target: UInt8[np.ndarray, "r r"], tile: Tile, cover: Plane, index: int) -> None:
    """Write `index` into a map where the cover is more than half, in place."""
    rows, cols, trows, tcols = tile.window(target.shape[0])
    target[rows, cols][cover[trows, tcols] > 0.5] = index
