"""Shapes as layers of polygons in a unit box (x to the right, y down), with the few helpers that draw
them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin

import numpy as np
from jaxtyping import Float

Point = tuple[float, float]
Polygon = tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """Polygons painted together. `role` says in which colour: see `vqpipe.data.scenes.paint.ROLES`."""

    role: str
    polygons: tuple[Polygon, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A noun's outline.

    `width` and `height` are its usual extent as a share of the picture, `zone` where it stands (air, water,
    ground), `top` the height in the unit box of a surface that carries other things, or None.
    """

    width: float
    height: float
    zone: str
    layers: tuple[Layer, ...]
    top: float | None = None

    def points(self) -> Float[np.ndarray, "n 2"]:
        """All corners of all polygons, in order."""
        return np.array([p for layer in self.layers for poly in layer.polygons for p in poly], np.float64)


def poly(text: str) -> Polygon:
    """A polygon from `"x y x y …"` in hundredths of the unit box."""
    values = [float(value) / 100 for value in text.split()]
    return tuple(zip(values[::2], values[1::2], strict=True))


def rect(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    """A rectangle, in hundredths."""
    return poly(f"{x0} {y0} {x1} {y0} {x1} {y1} {x0} {y1}")


def ellipse(cx: float, cy: float, rx: float, ry: float, n: int = 22) -> Polygon:
    """An ellipse as an n-gon, in hundredths."""
    return arc(cx, cy, rx, ry, 0.0, 2 * pi * (1 - 1 / n), n)


def arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float, n: int = 14) -> Polygon:
    """Points on an ellipse from one angle to another (radians, clockwise from the right), in hundredths."""
    angles = [start + (end - start) * i / (n - 1) for i in range(n)]
    return tuple(((cx + rx * cos(a)) / 100, (cy + ry * sin(a)) / 100) for a in angles)


def burst(cx: float, cy: float, outer: float, inner: float, n: int) -> Polygon:
    """A star with n points, the first upwards, in hundredths."""
    radii = [outer, inner] * n
    return tuple(
        ((cx + r * sin(pi * i / n)) / 100, (cy - r * cos(pi * i / n)) / 100) for i, r in enumerate(radii)
    )


def smooth(text: str, steps: int = 4) -> Polygon:
    """A closed Catmull-Rom curve through the corners of `poly(text)`."""
    corners = poly(text)
    out: list[Point] = []
    for i in range(len(corners)):
        p0, p1, p2, p3 = (corners[(i + k) % len(corners)] for k in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            out.append((_spline(p0[0], p1[0], p2[0], p3[0], t), _spline(p0[1], p1[1], p2[1], p3[1], t)))
    return tuple(out)


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def stroke(text: str, width: float) -> tuple[Polygon, ...]:
    """An open line through `poly(text)` as one quadrilateral per piece, `width` in hundredths."""
    line = poly(text)
    quads: list[Polygon] = []
    half = width / 200
    for (x0, y0), (x1, y1) in pairwise(line):
        length = max(1e-9, ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5)
        ux, uy = (x1 - x0) / length * half, (y1 - y0) / length * half
        quads.append(
            (
                (x0 - uy - ux, y0 + ux - uy), (x1 - uy + ux, y1 + ux + uy),
                (x1 + uy + ux, y1 - ux + uy), (x0 + uy - ux, y0 - ux - uy),
            )
        )  # fmt: skip
    return tuple(quads)


def shape(
    width: float, height: float, zone: str, *layers: tuple[str, Sequence[Polygon]], top: float | None = None
) -> Shape:
    """Put a shape together from (role, polygons) pairs, from back to front."""
    return Shape(width, height, zone, tuple(Layer(role, tuple(polys)) for role, polys in layers), top)


def furred(polygon: Float[np.ndarray, "n 2"], tuft: float) -> Float[np.ndarray, "m 2"]:
    """Resample a polygon at steps of `tuft` and pull every second corner out and every other one in: a ragged
    coat."""
    closed = np.vstack([polygon, polygon[:1]])
    lengths = np.hypot(*np.diff(closed, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    count = max(6, 2 * int(along[-1] / (2 * tuft)))
    at = np.arange(count) * (along[-1] / count)
    ring = np.stack([np.interp(at, along, closed[:, k]) for k in (0, 1)], axis=1)
    away = ring - polygon.mean(axis=0)
    away /= np.maximum(np.hypot(*away.T), 1e-6)[:, None]
    sign = np.where(np.arange(count) % 2 == 0, 0.75, -0.45)[:, None]
    return ring + away * sign * tuft
