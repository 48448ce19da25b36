"""Textures of the parts of places: what ground, water and walls look like before any adjective."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float32

from vqpipe.data.scenes.surface import TAU, Plane, soft

Texture = Callable[["Ground"], Plane]


@cache
def _knots(resolution: int, cells: int) -> Float32[np.ndarray, "r k"]:
    """The weights that carry `cells + 2` random knots to `resolution` pixels: smooth cosine steps between
    neighbours."""
    at = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution * cells
    low = np.floor(at).astype(int)
    share = (0.5 - 0.5 * np.cos(np.pi * (at - low))).astype(np.float32)
    weights = np.zeros((resolution, cells + 2), np.float32)
    weights[np.arange(resolution), low] = 1 - share
    weights[np.arange(resolution), low + 1] += share
    return weights


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
        return _knots(self.resolution, rows)[self.start :] @ cells @ _knots(self.resolution, columns).T

    def depth(self) -> Plane:
        """0 at the part's top to 1 at the picture's lower end."""
        return (self.v - self.top) / max(0.05, 1.0 - float(self.top))


def _sea(g: Ground) -> Plane:
    swell = np.sin(TAU * (1.9 * np.log(np.maximum(g.v - g.top, 0.0) + 0.07) * 2.6 + 0.9 * g.noise(5, 5)))
    return 0.13 * soft(swell - 0.55, 2.0) * 2.0 - 0.05 + 0.05 * g.noise(4, 16)


def _meadow(g: Ground) -> Plane:
    return 0.13 * g.noise(30, 13) + 0.09 * g.noise(6, 5)


def _sandy(g: Ground) -> Plane:
    return 0.05 * np.sin(TAU * (g.v / 0.075 + 0.7 * g.noise(4, 5))) + 0.05 * g.noise(7, 7)


def _leafy(g: Ground) -> Plane:
    trunks = soft(np.sin(TAU * (g.u / 0.13 + 0.06 * g.noise(3, 2))) - 0.72, 4.0) * soft(
        g.v - g.top - 0.20, 8.0
    )
    return 0.26 * g.noise(15, 15) + 0.10 * g.noise(6, 6) - 0.42 * trunks - 0.10


def _windows(g: Ground) -> Plane:
    lit = np.sin(TAU * g.u / 0.075) * 1.1 + np.sin(TAU * g.v / 0.095)
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
    return 0.17 * g.noise(9, 9) + 0.12 * np.sin(TAU * (g.u * 4.0 + g.v * 3.0 + 0.8 * g.noise(4, 4)))


def _lane(g: Ground) -> Plane:
    dash = soft(0.016 - np.abs(g.v - g.top - 0.12), 60.0) * soft(np.sin(TAU * g.u / 0.33) + 0.2, 4.0)
    return 0.06 * g.noise(12, 12) + 0.75 * dash


def _slabs(g: Ground) -> Plane:
    joints = np.abs(np.mod(g.u / 0.16 + 0.9 * (g.v - g.top), 1.0) - 0.5) * 0.16
    kerb = soft(g.v - g.top - 0.115, 50.0)
    return 0.05 * g.noise(10, 10) - 0.26 * soft(0.010 - joints, 80.0) - 0.18 * kerb


def _drapes(g: Ground) -> Plane:
    return 0.20 * np.sin(TAU * g.u / 0.085) + 0.0 * g.v


def _branches(g: Ground) -> Plane:
    return 0.22 * g.noise(13, 11) + 0.16 * np.sin(TAU * (g.u / 0.11 + 0.5 * g.noise(5, 4)))


def _plain(g: Ground) -> Plane:
    return 0.05 * g.noise(4, 4)


TEXTURES: Final[dict[str, Texture]] = {
    "sky": _plain, "wall": _plain, "carpet": _meadow, "sea": _sea, "water": _sea, "sand": _sandy,
        "dune": _sandy,
    "seabed": _sandy, "snow": _plain, "foliage": _leafy, "grass": _meadow, "lawn": _meadow, "hill": _meadow,
    "shore": _meadow, "mountain": _rocky, "coral": _branches, "skyline": _windows, "pavement": _slabs,
        "road": _lane,
    "pier": _planks, "floor": _planks, "fence": _pickets, "cupboard": _doors, "curtain": _drapes,
}  # fmt: skip
