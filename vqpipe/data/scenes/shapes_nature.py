"""Outlines of what grows, flies, swims and shines."""

from __future__ import annotations

from math import pi
from typing import Final

from vqpipe.data.scenes.geometry import Polygon, Shape, arc, burst, ellipse, poly, rect, shape, smooth, stroke


def _eye(
    x: float, y: float, r: float, ry: float | None = None
) -> tuple[tuple[str, tuple[Polygon, ...]], ...]:
    ry = r if ry is None else ry
    return ("light", (ellipse(x, y, r, ry, 10),)), ("dark", (ellipse(x + r * 0.2, y, r * 0.6, ry * 0.65, 8),))


NATURE: Final[dict[str, Shape]] = {
    "sun": shape(0.28, 0.28, "air", ("tint", [burst(50, 50, 50, 36, 12)]), ("body", [ellipse(50, 50, 34,
        34)])),
    "moon": shape(
        0.20, 0.26, "air",
        ("body", [arc(66, 50, 62, 50, -pi * 0.42, -pi * 1.58, 22) + arc(92, 50, 56, 40, pi * 0.60, pi * 1.40,
            14)]),
    ),
    "star": shape(0.24, 0.24, "air", ("body", [burst(50, 53, 52, 22, 5)])),
    "cloud": shape(
        0.40, 0.20, "air",
        ("body", [ellipse(25, 66, 25, 32), ellipse(50, 42, 28, 42), ellipse(76, 62, 24, 36), rect(22, 60, 80,
            97)]),
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
        ("body", [smooth("0 46 22 58 46 54 56 46 60 62 84 66 80 90 56 100 24 98 8 80"), ellipse(73, 26, 18,
            25)]),
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
            smooth("36 100 36 16 50 0 64 16 64 100", 5),
                smooth("0 34 8 26 16 34 18 56 40 56 40 74 10 72 1 60"),
            smooth("100 24 92 16 84 24 82 46 60 46 60 64 90 62 99 50"),
        ]),
        ("tint", [rect(46, 12, 51, 94)]),
    ),
    "flower": shape(
        0.24, 0.34, "ground",
        ("leaf", [*stroke("50 50 52 100", 7), smooth("52 88 66 66 92 62 80 86"),
            smooth("50 92 36 74 12 72 22 92")]),
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
        ("body", [ellipse(42, 76, 36, 24), ellipse(72, 49, 22, 17), ellipse(60, 20, 8, 21), ellipse(80, 20, 8,
            21)]),
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
