"""States of parts and moods of places: clouds, mist, mud, rain."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from vqpipe.data.scenes.surface import TAU, WHITE, Area, Plane, colour_of, mix, soft
from vqpipe.data.scenes.textures import Ground


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
    x = g.u / cell + 0.5 * np.mod(row, 2) + 0.37 * np.sin(row * 12.9)
    du = (np.mod(x, 1.0) - 0.5 - 0.2 * np.sin(np.floor(x) * 7.1 + row)) * cell
    dv = (np.mod(g.v / cell, 1.0) - 0.5 - 0.2 * np.sin(np.floor(x) * 3.7 + row * 5.3)) * cell
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
        beam = soft(np.sin(TAU * ((g.u - 0.1) / (g.v + 0.55) * 1.1 + 0.2)) - 0.35, 1.6)
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
        streak = soft(np.sin(TAU * lane) - 0.80, 5.0)
        streak *= soft(np.sin(TAU * (g.v / 0.22 + 3.1 * np.floor(lane))), 3.0)
        mix(canvas, streak * 0.62, colour_of(206, 224, 244))
    elif word == "snowy":
        for _ in range(2):
            mix(canvas, _flakes(g, 0.21) * 0.9, WHITE)
