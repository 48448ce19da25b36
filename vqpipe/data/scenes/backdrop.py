"""Places as pixels: bands from the sky down, each with its edge, its texture and what its adjectives change in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float32, Int, UInt8

from vqpipe.data.scenes.grammar import KIND_OF
from vqpipe.data.scenes.layout import Part, Scene
from vqpipe.data.scenes.surface import (
    TAU,
    WHITE,
    Area,
    Colour,
    Plane,
    colour_of,
    light,
    mix,
    partner,
    pattern,
    rgb,
    sine,
    soft,
)

Texture = Callable[["Ground"], Plane]


@cache
def _knots(resolution: int, cells: int) -> tuple[Int[np.ndarray, "r"], Float32[np.ndarray, "r"]]:
    """How `cells + 2` random knots are carried to `resolution` pixels, in smooth cosine steps between neighbours: the
    index of the knot before each pixel, and the share of the one after it, in [0, 1]."""
    at = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution * cells
    low = np.floor(at).astype(int)
    return low, 0.5 - 0.5 * sine(TAU * (0.25 - (at - low) / 2))


def _carry(knots: Float32[np.ndarray, "k n"], resolution: int) -> Float32[np.ndarray, "r n"]:
    """Knots along the first axis, carried to `resolution` pixels."""
    low, share = _knots(resolution, len(knots) - 2)
    return knots[low] * (1 - share)[:, None] + knots[low + 1] * share[:, None]


class Ground:
    """The window in which one part is painted: coordinates, random fields and its mean top."""

    def __init__(self, resolution: int, start: int, top: float, rng: np.random.Generator) -> None:
        grid = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution
        self.u, self.v = grid[None, :], grid[start:, None]
        self.resolution, self.start, self.top, self.rng = resolution, start, np.float32(top), rng

    def noise(self, columns: int, rows: int) -> Plane:
        """A smooth random field over the window, about [-1, 1], with that many cells over the whole
        picture."""
        cells = self.rng.random((rows + 2, columns + 2), np.float32) * 2 - 1
        return _carry(_carry(cells, self.resolution)[self.start :].T, self.resolution).T

    def depth(self) -> Plane:
        """0 at the part's top to 1 at the picture's lower end."""
        return (self.v - self.top) / max(0.05, 1.0 - float(self.top))


def _sea(g: Ground) -> Plane:
    away = np.log((np.maximum(g.v - g.top, 0.0) + 0.07).astype(np.float64)).astype(np.float32)
    swell = sine(TAU * (4.94 * away + 0.9 * g.noise(5, 5)))
    return 0.13 * soft(swell - 0.55, 2.0) * 2.0 - 0.05 + 0.05 * g.noise(4, 16)


def _meadow(g: Ground) -> Plane:
    return 0.13 * g.noise(30, 13) + 0.09 * g.noise(6, 5)


def _sandy(g: Ground) -> Plane:
    return 0.05 * sine(TAU * (g.v / 0.075 + 0.7 * g.noise(4, 5))) + 0.05 * g.noise(7, 7)


def _leafy(g: Ground) -> Plane:
    trunks = soft(sine(TAU * (g.u / 0.13 + 0.06 * g.noise(3, 2))) - 0.72, 4.0) * soft(g.v - g.top - 0.20, 8.0)
    return 0.26 * g.noise(15, 15) + 0.10 * g.noise(6, 6) - 0.42 * trunks - 0.10


def _windows(g: Ground) -> Plane:
    lit = sine(TAU * g.u / 0.075) * 1.1 + sine(TAU * g.v / 0.095)
    return 0.55 * soft(lit - 1.15, 2.6) * soft(g.noise(10, 8) + 0.5, 4.0) - 0.08


def _planks(g: Ground) -> Plane:
    joints = np.abs(np.mod(g.v / 0.085, 1.0) - 0.5) * 0.085
    return 0.07 * g.noise(5, 24) - 0.34 * soft(0.010 - joints, 80.0)


def _pickets(g: Ground) -> Plane:
    joints = np.abs(np.mod(g.u / 0.11, 1.0) - 0.5) * 0.11
    rail = np.minimum(np.abs(g.v - g.top - 0.09), np.abs(g.v - g.top - 0.21))
    return 0.04 * g.noise(10, 3) - 0.42 * soft(0.012 - joints, 80.0) * soft(rail - 0.018, 80.0)


def _doors(g: Ground) -> Plane:
    x, y = np.mod(g.u / 0.25, 1.0) - 0.5, (g.v - g.top) / 0.25
    seam = 0.36 * soft(np.abs(x) * 0.25 - 0.112, 90.0)
    knob = soft(0.016 - np.hypot((np.abs(x) - 0.34) * 0.25, (y - 0.42) * 0.25), 90.0)
    slab = soft(0.035 - np.abs(g.v - g.top - 0.02), 60.0)
    return 0.03 * g.noise(5, 12) - seam * (1 - slab) + 0.5 * knob + 0.24 * slab


def _rocky(g: Ground) -> Plane:
    return 0.17 * g.noise(9, 9) + 0.12 * sine(TAU * (g.u * 4.0 + g.v * 3.0 + 0.8 * g.noise(4, 4)))


def _lane(g: Ground) -> Plane:
    dash = soft(0.016 - np.abs(g.v - g.top - 0.12), 60.0) * soft(sine(TAU * g.u / 0.33) + 0.2, 4.0)
    return 0.06 * g.noise(12, 12) + 0.75 * dash


def _slabs(g: Ground) -> Plane:
    joints = np.abs(np.mod(g.u / 0.16 + 0.9 * (g.v - g.top), 1.0) - 0.5) * 0.16
    kerb = soft(g.v - g.top - 0.115, 50.0)
    return 0.05 * g.noise(10, 10) - 0.26 * soft(0.010 - joints, 80.0) - 0.18 * kerb


def _drapes(g: Ground) -> Plane:
    return 0.20 * sine(TAU * g.u / 0.085) + 0.0 * g.v


def _branches(g: Ground) -> Plane:
    return 0.22 * g.noise(13, 11) + 0.16 * sine(TAU * (g.u / 0.11 + 0.5 * g.noise(5, 4)))


def _plain(g: Ground) -> Plane:
    return 0.05 * g.noise(4, 4)


TEXTURES: Final[dict[str, Texture]] = {
    "sky": _plain, "wall": _plain, "carpet": _meadow, "sea": _sea, "water": _sea, "sand": _sandy, "dune": _sandy,
    "seabed": _sandy, "snow": _plain, "foliage": _leafy, "grass": _meadow, "lawn": _meadow, "hill": _meadow,
    "shore": _meadow, "mountain": _rocky, "coral": _branches, "skyline": _windows, "pavement": _slabs, "road": _lane,
    "pier": _planks, "floor": _planks, "fence": _pickets, "cupboard": _doors, "curtain": _drapes,
}  # fmt: skip


def apply_state(word: str, area: Area, g: Ground, edge: Float32[np.ndarray, "r"]) -> None:
    """What a condition word does to a part."""
    if word == "cloudy":
        mix(area, soft(g.noise(6, 9) + 0.5 * g.noise(11, 16) + 0.1, 1.3) * 0.85, WHITE)
    elif word == "stormy":
        mix(area, soft(g.noise(5, 8) + 0.4 * g.noise(9, 14) + 0.35, 1.5) * 0.82, colour_of(70, 74, 90))
    elif word == "misty":
        mix(area, 0.66 + 0.22 * g.noise(3, 5), colour_of(226, 230, 234))
    elif word == "muddy":
        mix(area, soft(g.noise(7, 9) + 0.1, 2.2) * 0.85, colour_of(112, 80, 48))
    elif word == "snowy":
        mix(area, soft(g.noise(8, 9) + 0.25 + 2.5 * (edge[None, :] + 0.10 - g.v), 2.4) * 0.92, WHITE)
    elif word == "mossy":
        mix(area, soft(g.noise(9, 9) - 0.05, 2.4) * 0.85, colour_of(86, 138, 52))
    elif word == "cracked":
        line = np.abs(g.u - 0.5 - 0.25 * g.noise(2, 6)) - 0.5 * np.abs(g.noise(4, 7)) * 0.05
        mix(area, soft(0.014 - line, 60.0) * 0.75, colour_of(60, 54, 52))
    else:
        _strewn(word, area, g)


def _strewn(word: str, area: Area, g: Ground) -> None:
    """Rocks, tufts or blossoms on a jittered grid."""
    cell = {"rocky": 0.17, "grassy": 0.11, "flowery": 0.115}[word]
    row = np.floor(g.v / cell)
    x = g.u / cell + 0.5 * np.mod(row, 2) + 0.37 * sine(row * 12.9)
    du = (np.mod(x, 1.0) - 0.5 - 0.2 * sine(np.floor(x) * 7.1 + row)) * cell
    dv = (np.mod(g.v / cell, 1.0) - 0.5 - 0.2 * sine(np.floor(x) * 3.7 + row * 5.3)) * cell
    if word == "rocky":
        mix(area, soft(0.058 - np.hypot(du, dv * 1.7), 50.0), colour_of(74, 72, 74))
        mix(area, soft(0.042 - np.hypot(du + 0.006, (dv + 0.008) * 1.8), 50.0), colour_of(158, 154, 150))
    elif word == "grassy":
        blade = np.minimum(np.abs(du - 0.35 * dv), np.abs(du + 0.5 * dv))
        mix(area, soft(0.010 - blade, 70.0) * soft(0.042 - np.abs(dv), 60.0), colour_of(58, 134, 50))
    else:
        kind = np.mod(np.floor(x) + 2 * row, 3)
        petal = soft(0.027 - np.hypot(du, dv), 70.0)
        for k, colour in enumerate(((238, 84, 110), (250, 222, 84), (248, 244, 250))):
            mix(area, petal * (kind == k), colour_of(*colour))


def _flakes(g: Ground, cell: float) -> Plane:
    """Round flakes, one at a random spot of each cell."""
    side = int(1 / cell) + 2
    spots = g.rng.random((3, side, side), np.float32) * 0.7 + 0.15
    x, y = g.u / np.float32(cell), g.v / np.float32(cell)
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    du, dv = x - column - spots[0][row, column], y - row - spots[1][row, column]
    return soft((0.017 + 0.012 * spots[2][row, column]) - np.sqrt(du * du + dv * dv) * np.float32(cell), 62.0)


def mood(canvas: Float32[np.ndarray, "3 r r"], word: str, rng: np.random.Generator) -> None:
    """Lay a place's mood over the finished picture, in place."""
    r = canvas.shape[1]
    g = Ground(r, 0, 0.0, rng)
    if word == "sunny":
        beam = soft(sine(TAU * ((g.u - 0.1) / (g.v + 0.55) * 1.1 + 0.2)) - 0.35, 1.6)
        beam *= np.clip(1.05 - g.v, 0.0, 1.0)
        canvas *= colour_of(1.10, 1.06, 0.94)
        mix(canvas, beam * 0.34, colour_of(255, 246, 196))
    elif word == "dark":
        canvas *= colour_of(0.56, 0.58, 0.72)
    elif word == "misty":
        mix(canvas, 0.46 + 0.16 * g.noise(3, 6), colour_of(224, 228, 232))
    elif word == "rainy":
        canvas *= colour_of(0.84, 0.88, 0.95)
        lane = (g.u + 0.3 * g.v) / 0.085
        streak = soft(sine(TAU * lane) - 0.80, 5.0)
        streak *= soft(sine(TAU * (g.v / 0.22 + 3.1 * np.floor(lane))), 3.0)
        mix(canvas, streak * 0.62, colour_of(206, 224, 244))
    elif word == "snowy":
        for _ in range(2):
            mix(canvas, _flakes(g, 0.21) * 0.9, WHITE)


CALM: Final = np.float32(0.40)
"""How far a part's colour is drawn towards its natural one, so that objects are distinct from it."""
NATURAL: Final[dict[str, tuple[int, int, int]]] = {
    "sky": (150, 196, 240), "sea": (70, 136, 196), "water": (76, 150, 190), "sand": (234, 210, 156),
        "dune": (222, 178, 112),
    "foliage": (62, 104, 62), "grass": (112, 168, 78), "lawn": (110, 178, 84), "hill": (110, 150, 96),
    "mountain": (132, 136, 152), "snow": (240, 244, 250), "shore": (150, 140, 98), "skyline": (130, 132, 146),
    "pavement": (186, 184, 180), "road": (110, 110, 118), "pier": (158, 120, 84), "fence": (206, 190, 166),
    "wall": (234, 224, 206), "cupboard": (186, 148, 108), "floor": (186, 150, 116), "curtain": (190, 120, 120),
    "carpet": (178, 130, 120), "coral": (214, 120, 130), "seabed": (206, 186, 140),
}  # fmt: skip


@cache
def _tone(noun: str, colour: str) -> Colour:
    return rgb(colour) * (1 - CALM) + colour_of(*NATURAL[noun]) * CALM


def _edge(part: Part, resolution: int, rng: np.random.Generator) -> Float32[np.ndarray, "r"]:
    """The height of a part's top edge per column, a share of the picture."""
    x = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution
    phase = rng.random(3).astype(np.float32) * TAU
    if part.edge == "flat":
        return np.full(resolution, part.top, np.float32)
    if part.edge == "blocks":
        steps = rng.random(9, dtype=np.float32)
        return part.top + part.rough * (steps[np.minimum((x * 7 + phase[0] / TAU).astype(int), 8)] * 2 - 1)
    if part.edge == "pickets":
        return part.top + part.rough * (np.abs(np.mod(x / 0.11, 1.0) - 0.5) * -4 + 1)
    if part.edge == "peaks":
        knots = rng.random(8, dtype=np.float32) * 0.7 + np.tile(np.array((0.0, 1.0), np.float32), 4)
        return part.top + part.rough * (
            np.interp(x * 5.5 + phase[1] / TAU, np.arange(8), knots).astype(np.float32) - 0.8
        )
    waves = {"hills": (1.1, 2.3, 3.7), "trees": (4.0, 7.0, 11.0), "bumps": (3.0, 5.0, 9.0)}[part.edge]
    heights = sum(
        sine(TAU * x * wave + p) / (k + 1.3) for k, (wave, p) in enumerate(zip(waves, phase, strict=True))
    )
    return (part.top + part.rough * np.asarray(heights)).astype(np.float32)


def backdrop(
    scene: Scene, resolution: int, rng: np.random.Generator, segments: dict[str, int]
) -> tuple[Float32[np.ndarray, "3 r r"], UInt8[np.ndarray, "r r"]]:
    """Paint the parts of a scene's place.

    Returns:
        The picture in sRGB [0, 255], and the map of part indices (`segments` by noun).
    """
    canvas = np.zeros((3, resolution, resolution), np.float32)
    seg = np.zeros((resolution, resolution), np.uint8)
    for part in scene.parts:
        if part.edge == "sides":
            _curtains(canvas, seg, part, rng, segments[part.noun])
            continue
        edge = (
            _edge(part, resolution, rng)
            if part is not scene.parts[0]
            else np.full(resolution, -1, np.float32)
        )
        start = min(max(0, int(edge.min() * resolution) - 1), resolution - 1)
        ground = Ground(resolution, start, part.top, rng)
        area = _surface(part, ground, edge)
        solid = min(int(edge.max() * resolution) + 2, resolution)
        cover = soft(ground.v[: solid - start] - edge[None, :], resolution)
        mix(canvas[:, start:solid], cover, area[:, : solid - start])
        canvas[:, solid:] = area[:, solid - start :]
        seg[start:solid][cover > 0.5] = segments[part.noun]
        seg[solid:] = segments[part.noun]
    return canvas, seg


def _surface(part: Part, g: Ground, edge: Float32[np.ndarray, "r"]) -> Area:
    """The colours of a part over its window."""
    colour = _tone(part.noun, next(word for word in part.words if KIND_OF[word] == "colour"))
    area = np.empty((3, g.v.shape[0], g.u.shape[1]), np.float32)
    area[:] = colour
    motif = next((word for word in part.words if KIND_OF[word] == "pattern"), None)
    if motif:
        strength = 0.55 if part.noun in ("wall", "carpet", "floor", "curtain", "sky") else 0.45
        mix(
            area,
            pattern(motif, g.u, g.v, float(g.rng.random()), False) * np.float32(strength),
            partner(colour),
        )
    texture = TEXTURES[part.noun](g)
    area *= 1.0 + texture
    _gradient(part.noun, area, g, edge)
    for word in part.words:
        if KIND_OF[word] == "condition":
            apply_state(word, area, g, edge)
        elif KIND_OF[word] == "light":
            light(word, area, g.u * 2 - 1, g.depth() * 2 - 1)
    return np.clip(area, 0.0, 255.0, out=area)


def _gradient(noun: str, area: Area, g: Ground, edge: Float32[np.ndarray, "r"]) -> None:
    """The air between: skies and waters lighten towards the horizon, grounds darken towards the viewer."""
    if noun == "sky":
        mix(area, np.clip(g.v * 1.5 - 0.05, 0.0, 0.62) + 0.0 * g.u, WHITE)
    elif noun == "mountain":
        mix(area, soft(edge[None, :] + 0.07 + 0.03 * g.noise(14, 4) - g.v, 40.0) * 0.8, WHITE)
    elif noun in ("wall", "curtain"):
        area *= 1.05 - 0.16 * g.v - 0.14 * np.abs(g.u - 0.35)
    else:
        area *= 1.12 - 0.30 * np.clip(g.depth(), 0.0, 1.0)


def _curtains(
    canvas: Float32[np.ndarray, "3 r r"], seg: UInt8[np.ndarray, "r r"], part: Part, rng: np.random.Generator,
        index: int
) -> None:  # fmt: skip
    """Hang a curtain on both sides, in place."""
    r = canvas.shape[1]
    ground = Ground(r, 0, 0.0, rng)
    area = _surface(part, ground, np.zeros(r, np.float32))
    width = part.rough + 0.03 + 0.05 * sine(ground.v * 3.0)
    cover = soft(width - np.minimum(ground.u, 1 - ground.u), r)
    mix(canvas, cover, area)
    seg[cover > 0.5] = index
