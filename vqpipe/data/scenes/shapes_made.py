"""Outlines of what people build and use."""

from __future__ import annotations

from math import pi
from typing import Final

from vqpipe.data.scenes.geometry import Shape, arc, ellipse, poly, rect, shape, smooth, stroke

MADE: Final[dict[str, Shape]] = {
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
        ("dark", [arc(50, 76, 12, 14, -pi, 0.0) + poly("62 100 38 100"), rect(12, 34, 18, 48),
                  rect(82, 34, 88, 48)]),
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
        ("steel", [poly("16 84 28 84 20 100 8 100"), poly("72 84 84 84 92 100 80 100"), ellipse(50, 5, 9, 5,
            10)]),
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
            arc(50, 52, 50, 46, -pi, 0.0, 20) + arc(87, 52, 13, 9, 0.0, -pi, 7) + arc(62, 52, 12, 9, 0.0, -pi,
                7)
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
