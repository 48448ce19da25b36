"""Outlines of the objects: layers of polygons in a unit box (x to the right, y down)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin
from typing import Final

import numpy as np
from jaxtyping import Float

Point = tuple[float, float]
Polygon = tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """Polygons painted together. `role` is the name of their colour: see `vqpipe.data.scenes.drawing.ROLES`."""

    role: str
    polygons: tuple[Polygon, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A noun's outline.

    `width` and `height` are its usual extent as a share of the picture, `zone` is where it belongs (air, water,
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


def _eye(
    x: float, y: float, r: float, ry: float | None = None
) -> tuple[tuple[str, tuple[Polygon, ...]], ...]:
    ry = r if ry is None else ry
    return ("light", (ellipse(x, y, r, ry, 10),)), ("dark", (ellipse(x + r * 0.2, y, r * 0.6, ry * 0.65, 8),))


_NATURE: Final[dict[str, Shape]] = {
    "sun": shape(0.28, 0.28, "air", ("tint", [burst(50, 50, 50, 36, 12)]), ("body", [ellipse(50, 50, 34, 34)])),
    "moon": shape(
        0.20, 0.26, "air",
        ("body", [arc(66, 50, 62, 50, -pi * 0.42, -pi * 1.58, 22) + arc(92, 50, 56, 40, pi * 0.60, pi * 1.40, 14)]),
    ),
    "star": shape(0.24, 0.24, "air", ("body", [burst(50, 53, 52, 22, 5)])),
    "cloud": shape(
        0.40, 0.20, "air",
        ("body", [ellipse(25, 66, 25, 32), ellipse(50, 42, 28, 42), ellipse(76, 62, 24, 36), rect(22, 60, 80, 97)]),
        ("tint", [ellipse(46, 30, 16, 18)]),
    ),
    "bird": shape(
        0.30, 0.22, "air",
        ("body", [smooth("0 40 18 40 40 30 62 26 76 34 76 62 56 84 30 78 14 60"), ellipse(75, 30, 18, 26)]),
        ("beak", [poly("90 22 100 34 90 44")]),
        ("shade", [smooth("26 46 50 40 62 52 44 70 16 100 22 66")]),
        *_eye(79, 24, 5, 7),
    ),
    "butterfly": shape(
        0.28, 0.24, "air",
        ("dark", [*stroke("48 36 34 4", 4), *stroke("52 36 66 4", 4)]),
        ("body", [ellipse(25, 33, 25, 31), ellipse(75, 33, 25, 31)]),
        ("tint", [ellipse(30, 76, 19, 24), ellipse(70, 76, 19, 24)]),
        ("dark", [ellipse(50, 52, 6, 34, 12)]),
    ),
    "fish": shape(
        0.34, 0.20, "water",
        ("shade", [poly("0 8 26 50 0 92 12 50"), poly("40 20 62 0 70 22"), poly("46 78 60 100 66 78")]),
        ("body", [smooth("12 50 34 20 62 12 90 32 100 52 90 70 62 88 34 80")]),
        *_eye(84, 40, 5.5, 9),
    ),
    "duck": shape(
        0.30, 0.26, "water",
        ("beak", [poly("86 22 100 30 86 36")]),
        ("body", [smooth("0 46 22 58 46 54 56 46 60 62 84 66 80 90 56 100 24 98 8 80"), ellipse(73, 26, 18, 25)]),
        ("body", [poly("56 40 84 44 82 70 52 72")]),
        ("shade", [smooth("20 66 46 60 60 72 44 86 24 84")]),
        *_eye(77, 20, 5, 6),
    ),
    "tree": shape(
        0.34, 0.46, "ground",
        ("bark", [poly("42 60 58 60 61 100 39 100")]),
        ("shade", [ellipse(26, 52, 26, 20), ellipse(74, 52, 26, 20)]),
        ("body", [ellipse(50, 26, 32, 26), ellipse(30, 44, 26, 20), ellipse(70, 44, 26, 20), ellipse(50, 52,
            24, 18)]),
    ),
    "cactus": shape(
        0.26, 0.38, "ground",
        ("body", [
            smooth("36 100 36 16 50 0 64 16 64 100", 5), smooth("0 34 8 26 16 34 18 56 40 56 40 74 10 72 1 60"),
            smooth("100 24 92 16 84 24 82 46 60 46 60 64 90 62 99 50"),
        ]),
        ("tint", [rect(46, 12, 51, 94)]),
    ),
    "flower": shape(
        0.24, 0.34, "ground",
        ("leaf", [*stroke("50 50 52 100", 7), smooth("52 88 66 66 92 62 80 86"), smooth("50 92 36 74 12 72 22 92")]),
        ("body", [ellipse(50 + 26 * x, 30 + 18.5 * y, 21, 15, 14) for x, y in (
            (0, -1), (0.9, -0.4), (0.65, 0.8), (-0.65, 0.8), (-0.9, -0.4))]),
        ("gold", [ellipse(50, 30, 15, 11, 14)]),
    ),
    "mushroom": shape(
        0.27, 0.28, "ground",
        ("cream", [smooth("38 46 62 46 64 78 72 96 50 100 28 96 36 78")]),
        ("body", [arc(50, 54, 50, 54, -pi, 0.0, 18) + arc(50, 54, 50, 10, 0.0, pi, 10)]),
        ("light", [ellipse(30, 34, 7, 7, 10), ellipse(54, 20, 8, 7, 10), ellipse(74, 38, 7, 7, 10)]),
    ),
    "rock": shape(
        0.30, 0.22, "ground",
        ("body", [poly("0 92 8 52 28 26 46 4 68 12 88 42 100 90 84 100 14 100")]),
        ("tint", [poly("28 26 46 4 68 12 56 40 34 46")]),
        ("shade", [poly("68 12 88 42 100 90 84 100 66 74 56 40")]),
        top=0.1,
    ),
    "cat": shape(
        0.26, 0.30, "ground",
        ("body", stroke("72 92 94 84 96 60 88 48", 9)),
        ("body", [smooth("22 100 26 66 40 46 60 46 76 66 80 100", 5)]),
        ("body", [ellipse(46, 31, 29, 24), poly("18 26 20 0 42 12"), poly("74 26 72 0 50 12")]),
        ("light", [ellipse(35, 28, 6, 5, 10), ellipse(58, 28, 6, 5, 10)]),
        ("dark", [ellipse(36, 28, 3, 5, 8), ellipse(58, 28, 3, 5, 8), *stroke("34 100 36 80", 3),
            *stroke("58 100 58 80", 3)]),
        ("blush", [poly("42 37 51 37 46.5 43")]),
    ),
    "dog": shape(
        0.34, 0.28, "ground",
        ("body", stroke("10 46 0 22", 9)),
        ("shade", [rect(20, 66, 30, 98), rect(56, 66, 66, 98)]),
        ("body", [smooth("8 44 20 36 60 38 72 44 72 72 60 80 20 78 8 66"), rect(10, 60, 21, 100), rect(62, 60,
            73, 100)]),
        ("body", [smooth("60 12 74 2 86 8 88 24 100 30 98 44 82 48 66 50 58 34")]),
        ("shade", [smooth("60 8 70 4 72 26 64 44 56 34")]),
        ("dark", [ellipse(97, 32, 4, 5, 10), ellipse(82, 20, 3.2, 4, 8)]),
    ),
    "rabbit": shape(
        0.26, 0.32, "ground",
        ("light", [ellipse(8, 80, 8, 8, 12)]),
        ("body", [ellipse(42, 76, 36, 24), ellipse(72, 49, 22, 17), ellipse(60, 20, 8, 21), ellipse(80, 20, 8, 21)]),
        ("blush", [ellipse(60, 20, 3.5, 14, 10), ellipse(80, 20, 3.5, 14, 10), ellipse(93, 52, 3, 3, 8)]),
        ("body", [ellipse(66, 95, 18, 6)]),
        *_eye(78, 46, 4.5),
    ),
    "apple": shape(
        0.22, 0.25, "ground",
        ("bark", stroke("52 26 58 2", 7)),
        ("leaf", [smooth("58 16 72 2 94 6 78 20")]),
        ("body", [smooth("50 26 70 18 92 26 100 52 88 84 68 100 50 95 32 100 12 84 0 52 8 26 30 18")]),
        ("tint", [ellipse(27, 42, 8, 12, 12)]),
    ),
    "pear": shape(
        0.20, 0.29, "ground",
        ("bark", stroke("50 18 60 0", 7)),
        ("leaf", [smooth("58 12 76 2 98 8 80 18")]),
        ("body", [smooth("50 14 64 22 70 44 94 66 92 90 68 100 32 100 8 90 6 66 30 44 36 22")]),
        ("tint", [ellipse(30, 70, 8, 11, 12)]),
    ),
    "pumpkin": shape(
        0.32, 0.25, "ground",
        ("leaf", stroke("50 24 54 2", 10)),
        ("shade", [ellipse(22, 60, 22, 36), ellipse(78, 60, 22, 36)]),
        ("body", [ellipse(35, 59, 22, 40), ellipse(65, 59, 22, 40)]),
        ("body", [ellipse(50, 58, 17, 41)]),
        ("shade", [*stroke("36 28 32 60 38 92", 2.5), *stroke("64 28 68 60 62 92", 2.5)]),
    ),
}  # fmt: skip


_MADE: Final[dict[str, Shape]] = {
    "kite": shape(
        0.26, 0.36, "air",
        ("dark", stroke("50 62 44 74 56 84 46 98", 3.5)),
        ("gold", [poly("36 72 52 78 36 84"), poly("64 80 50 86 64 92")]),
        ("body", [poly("50 0 96 30 50 68 4 30")]),
        ("shade", [poly("50 0 53 30 50 68 47 30"), poly("4 30 50 28 96 30 50 33")]),
    ),
    "balloon": shape(
        0.22, 0.38, "air",
        ("dark", stroke("50 68 44 80 54 90 48 100", 4)),
        ("body", [smooth("50 0 84 10 100 34 82 58 54 68 46 68 18 58 0 34 16 10"), poly("50 64 60 74 40 74")]),
        ("light", [ellipse(28, 24, 7, 8, 12)]),
    ),
    "boat": shape(
        0.38, 0.36, "water",
        ("bark", [rect(46, 4, 51, 74)]),
        ("cream", [poly("53 4 53 64 90 64")]),
        ("tint", [poly("44 16 44 64 16 64")]),
        ("body", [poly("0 68 100 68 84 98 18 98")]),
        ("shade", [poly("0 68 100 68 97 75 4 75")]),
        top=0.7,
    ),
    "house": shape(
        0.38, 0.40, "ground",
        ("brick", [rect(70, 6, 82, 34)]),
        ("body", [poly("8 42 50 8 92 42 92 100 8 100")]),
        ("roof", [poly("0 46 50 0 100 46 92 54 50 16 8 54")]),
        ("bark", [rect(58, 64, 78, 100)]),
        ("pane", [rect(20, 58, 44, 80)]),
        ("dark", [rect(31, 58, 33.5, 80), rect(20, 68, 44, 70)]),
        top=0.12,
    ),
    "tent": shape(
        0.38, 0.30, "ground",
        ("body", [poly("50 2 100 100 0 100")]),
        ("tint", [poly("50 2 30 100 0 100")]),
        ("dark", [poly("56 34 72 100 42 100")]),
    ),
    "castle": shape(
        0.40, 0.42, "ground",
        ("shade", [poly("40 18 40 10 45 10 45 14 48 14 48 10 53 10 53 14 56 14 56 10 61 10 61 60 40 60")]),
        ("body", [
            poly("20 48 26 48 26 42 34 42 34 48 42 48 42 42 58 42 58 48 66 48 66 42 "
                 "74 42 74 48 80 48 80 100 20 100"),
        ]),
        ("body", [
            poly("0 24 0 14 7 14 7 20 11 20 11 14 19 14 19 20 23 20 23 14 30 14 30 100 0 100"),
            poly("70 24 70 14 77 14 77 20 81 20 81 14 89 14 89 20 93 20 93 14 100 14 100 100 70 100"),
        ]),
        ("dark", [arc(50, 76, 12, 14, -pi, 0.0) + poly("62 100 38 100"), rect(12, 34, 18, 48), rect(82, 34, 88, 48)]),
        ("brick", [poly("50 10 50 0 64 4 50 8")]),
        top=0.42,
    ),
    "car": shape(
        0.42, 0.23, "ground",
        ("body", [smooth("20 44 32 8 62 4 80 40", 4), smooth("2 46 20 40 80 38 98 50 100 78 2 80", 4)]),
        ("glass", [poly("28 40 36 15 50 14 50 40"), poly("55 40 55 14 62 15 73 40")]),
        ("gold", [ellipse(95, 56, 4, 7, 10)]),
        ("dark", [ellipse(24, 80, 11, 20), ellipse(78, 80, 11, 20)]),
        ("steel", [ellipse(24, 80, 5, 9, 12), ellipse(78, 80, 5, 9, 12)]),
        top=0.1,
    ),
    "truck": shape(
        0.46, 0.30, "ground",
        ("shade", [poly("66 28 86 28 98 56 98 84 66 84")]),
        ("body", [rect(0, 2, 64, 82)]),
        ("glass", [poly("72 36 84 36 91 56 72 56")]),
        ("gold", [ellipse(96, 68, 3, 5, 10)]),
        ("dark", [ellipse(18, 84, 10, 15), ellipse(48, 84, 10, 15), ellipse(82, 84, 10, 15)]),
        ("steel", [ellipse(18, 84, 4.5, 7, 12), ellipse(48, 84, 4.5, 7, 12), ellipse(82, 84, 4.5, 7, 12)]),
        top=0.03,
    ),
    "ball": shape(
        0.24, 0.24, "ground",
        ("body", [ellipse(50, 50, 50, 50, 26)]),
        ("tint", [ellipse(31, 28, 9, 7, 12)]),
    ),
    "box": shape(
        0.28, 0.26, "ground",
        ("tint", [poly("0 24 22 0 100 0 78 24")]),
        ("shade", [poly("78 24 100 0 100 76 78 100")]),
        ("body", [rect(0, 24, 78, 100)]),
        top=0.12,
    ),
    "cup": shape(
        0.26, 0.23, "ground",
        ("body", stroke("74 32 92 34 96 52 88 68 68 70", 9)),
        ("body", [poly("2 12 80 12 72 90 62 100 20 100 10 90")]),
        ("shade", [ellipse(41, 12, 39, 12)]),
        ("coffee", [ellipse(41, 14, 31, 8)]),
    ),
    "bottle": shape(
        0.14, 0.38, "ground",
        ("bark", [rect(34, 0, 66, 10)]),
        ("body", [smooth("34 8 66 8 68 26 96 42 100 60 98 96 80 100 20 100 2 96 0 60 4 42 32 26", 3)]),
        ("cream", [rect(6, 58, 94, 80)]),
    ),
    "lamp": shape(
        0.24, 0.38, "ground",
        ("steel", [rect(45, 40, 55, 94), smooth("20 100 30 92 70 92 80 100")]),
        ("body", [poly("28 0 72 0 100 50 0 50")]),
        ("gold", [ellipse(50, 53, 17, 5, 14)]),
    ),
    "chair": shape(
        0.24, 0.38, "ground",
        ("shade", [rect(14, 60, 24, 90), rect(76, 60, 86, 90)]),
        ("body", [smooth("12 4 50 0 88 4 86 50 14 50", 3)]),
        ("body", [rect(4, 66, 16, 100), rect(84, 66, 96, 100)]),
        ("tint", [poly("10 52 90 52 100 68 0 68")]),
        ("shade", [rect(0, 68, 100, 74)]),
        top=0.56,
    ),
    "clock": shape(
        0.26, 0.29, "ground",
        ("steel", [poly("16 84 28 84 20 100 8 100"), poly("72 84 84 84 92 100 80 100"), ellipse(50, 5, 9, 5, 10)]),
        ("body", [ellipse(50, 50, 50, 45, 26)]),
        ("light", [ellipse(50, 50, 30, 27, 22)]),
        ("dark", [*stroke("50 50 50 30", 6), *stroke("50 50 64 56", 6)]),
    ),
    "hat": shape(
        0.32, 0.22, "ground",
        ("body", [ellipse(50, 84, 50, 16)]),
        ("body", [smooth("24 82 26 24 36 2 50 8 64 2 74 24 76 82", 3)]),
        ("gold", [poly("24 64 76 64 77 80 50 84 23 80")]),
    ),
    "book": shape(
        0.30, 0.26, "ground",
        ("shade", [poly("0 14 12 4 12 90 0 100")]),
        ("cream", [poly("8 88 92 88 100 96 0 98"), rect(90, 8, 97, 92)]),
        ("body", [poly("8 2 92 2 92 88 8 88")]),
        ("cream", [rect(34, 20, 68, 30)]),
        top=0.03,
    ),
    "umbrella": shape(
        0.38, 0.36, "ground",
        ("bark", [rect(48, 0, 52, 96), *stroke("50 94 54 99 62 98 64 90", 4)]),
        ("body", [
            arc(50, 52, 50, 46, -pi, 0.0, 20) + arc(87, 52, 13, 9, 0.0, -pi, 7) + arc(62, 52, 12, 9, 0.0, -pi, 7)
            + arc(38, 52, 12, 9, 0.0, -pi, 7) + arc(13, 52, 13, 9, 0.0, -pi, 7)
        ]),
        ("shade", [arc(50, 48, 14, 42, -pi, 0.0, 12) + arc(50, 50, 13, 8, 0.0, -pi, 7)]),
    ),
    "vase": shape(
        0.22, 0.34, "ground",
        ("body", [smooth("24 2 76 2 66 22 98 46 92 76 70 98 30 98 8 76 2 46 34 22", 4)]),
        ("shade", [ellipse(50, 4, 27, 4, 16)]),
        ("tint", [ellipse(26, 50, 7, 13, 12)]),
    ),
}  # fmt: skip

SHAPES: Final[dict[str, Shape]] = {**_NATURE, **_MADE}
"""The outline of every object noun: what grows, flies, swims and shines, then what people build and use."""
