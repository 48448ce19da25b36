"""Pictures of the scoreboard: points with intervals over common axes, each method named where nothing is covered.

An SVG file of its own for Markdown pages: it has the report's colours for light and dark, and its own ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import count, pairwise

from markupsafe import Markup, escape

from vqpipe.report.charts import NUM_COLOURS, Axis, axis_over, tick_label

WIDTH, HEIGHT = 552, 560
"""In pixels: no wider than a column of text; words are 9 pixels high at the 374 of a phone."""
MARK = "<!-- written by vqpipe boards -->"
_LEFT, _TOP, _BOTTOM = 56, 14, 48
_LEAST, _MOST = 8, 300
"""Pixels for names beyond the frame."""
_INSIDE = 14
"""Pixels of the frame before the first x and beyond the last."""
_NEAR = 6
"""Pixels between the middles of two points that touch."""
_MANY = 6
"""From so many single points of one x on, most have no name."""
_LETTER, _LINE = 7.1, 15.0
"""Width of a letter and height of a line of the names, in pixels; at least those of the usual fonts."""
_STYLE = (
    "text{fill:var(--ink);font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}"
    ".ground{fill:var(--ground)}.tick,.axis{fill:var(--soft)}.grid{stroke:var(--line)}"
    ".leader{stroke:var(--soft);stroke-width:.7}.line,.bar{fill:none;stroke-width:1.5}.dashed{stroke-dasharray:5 4}"
    ".line.dotted{stroke-dasharray:2 3}"
    ".point{stroke-width:1.5;fill:currentColor}.hollow{fill:var(--ground)}"
    + "".join(f".c{i}{{stroke:var(--s{i});color:var(--s{i})}}" for i in range(NUM_COLOURS))
    + ".alone{stroke:var(--soft);color:var(--soft)}"
)

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True)
class Point:
    """A number with its interval; `over_seeds` is false for a point of one seed, which is drawn hollow."""

    x: float
    y: float
    low: float
    high: float
    over_seeds: bool = True


@dataclass(frozen=True)
class Line:
    """The points of one method in the order of x, joined; a dashed line has no points and no intervals."""

    label: str
    points: Sequence[Point]
    dashed: bool = False


def picture(lines: Sequence[Line], *, x_label: str, y_label: str, alt: str, log_x: bool = False) -> Markup:
    """Draw methods over common axes, each with its name near its last point.

    Points of equal x are set a few pixels apart, so that their intervals can be distinguished. Of many methods that
    have a single point of the same x, the highest and the lowest are named.
    """
    points = [point for line in lines for point in line.points]
    y = axis_over(
        [v for p in points for v in (p.low, p.high)], False, HEIGHT - _BOTTOM, _TOP + _BOTTOM - HEIGHT, 0.04
    )
    named = _named(lines, _x_axis(points, log_x, _LEAST))
    right = _LEAST + _LETTER * max(len(lines[i].label) for i in named)
    x = _x_axis(points, log_x, min(right, _MOST))
    places = _places(lines, x, y)
    parts = [*_frame(x, y, x_label, y_label, alt)]
    colours = count()
    for line, at in zip(lines, places, strict=True):
        name = _colour(next(colours)) if len(line.points) > 1 and not line.dashed else "alone"
        parts += _drawn(line, at, y, name)
    parts += _names(lines, places, y, named)
    return Markup("".join([*parts, "</svg>\n"]))


def _named(lines: Sequence[Line], x: Axis) -> list[int]:
    """All lines; of many that have a single point and nearly the same x, the highest and the lowest."""
    single = [(x(own.points[0].x), own.points[0].y, i) for i, own in enumerate(lines) if len(own.points) == 1]
    unnamed = set[int]()
    for column in _columns(single).values():
        if len(column) >= _MANY:
            unnamed |= {i for _, i in column[1:-1]}
    return [i for i in range(len(lines)) if i not in unnamed]


def _columns(points: Iterable[tuple[float, float, int]]) -> dict[float, list[tuple[float, int]]]:
    """For each x of points (x, y, number), the (y, number) by rising y of all whose x are less than `_NEAR` pixels from
    the next."""
    columns: dict[float, list[tuple[float, int]]] = {}
    before, column = -math.inf, list[tuple[float, int]]()
    for at, value, number in sorted(points):
        column = column if at - before < _NEAR else []
        columns[at], before = column, at
        column.append((value, number))
    for own in columns.values():
        own.sort()
    return columns


def _x_axis(points: Sequence[Point], log: bool, right: float) -> Axis:
    """The axis with `right` pixels for names beyond the frame."""
    return axis_over([p.x for p in points], log, _LEFT + _INSIDE, WIDTH - _LEFT - 2 * _INSIDE - right, 0.0)


def _colour(number: int) -> str:
    """The classes of a line; one whose colour was used before is dotted."""
    return f"c{number % NUM_COLOURS}{' dotted' if number >= NUM_COLOURS else ''}"


def _places(lines: Sequence[Line], x: Axis, y: Axis) -> list[list[tuple[float, float]]]:
    """Where each point is drawn. Of four points or more whose x are less than `_NEAR` pixels from the next, those next
    to one another in y are set apart."""
    points = [
        (x(point.x), point.y, number)
        for number, line in enumerate(lines)
        if not line.dashed
        for point in line.points
    ]
    columns = _columns(points)

    def place(point: Point, number: int) -> tuple[float, float]:
        column = [] if lines[number].dashed else columns[x(point.x)]
        shift = 0 if len(column) < 4 else _NEAR * (column.index((point.y, number)) % 3 - 1)
        return x(point.x) + shift, y(point.y)

    return [[place(point, number) for point in line.points] for number, line in enumerate(lines)]


def _frame(x: Axis, y: Axis, x_label: str, y_label: str, alt: str) -> Iterator[str]:
    right, bottom = x.start + x.length + _INSIDE, HEIGHT - _BOTTOM
    colours = files("vqpipe.report").joinpath("templates/colours.css").read_text(encoding="utf-8").rstrip()
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(alt)}">{MARK}<style>{colours}{_STYLE}</style>'
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>'
    )
    for tick in y.ticks(6):
        at = y(tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at}" y2="{at}"/>'
        yield f'<text class="tick" x="{_LEFT - 6}" y="{at + 4}" text-anchor="end">{tick_label(tick)}</text>'
    for tick in x.ticks(5):
        at = x(tick)
        yield f'<line class="grid" x1="{at}" x2="{at}" y1="{_TOP}" y2="{bottom}"/>'
        yield f'<text class="tick" x="{at}" y="{bottom + 16}" text-anchor="middle">{tick_label(tick)}</text>'
    middle = (_LEFT + right) / 2
    yield f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    yield (
        f'<text class="axis" transform="translate(14 {(_TOP + bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )


def _drawn(line: Line, places: Sequence[tuple[float, float]], y: Axis, colour: str) -> Iterator[str]:
    if len(places) > 1:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        yield f'<polyline class="line {colour}{" dashed" if line.dashed else ""}" points="{path}"/>'
    if line.dashed:
        return
    for point, (a, b) in zip(line.points, places, strict=True):
        if point.high > point.low:
            yield f'<line class="bar {colour}" x1="{a:.1f}" x2="{a:.1f}" y1="{y(point.low)}" y2="{y(point.high)}"/>'
        hollow = "" if point.over_seeds else " hollow"
        yield f'<circle class="point {colour}{hollow}" cx="{a:.1f}" cy="{b:.1f}" r="3.2"/>'


def _names(
    lines: Sequence[Line], places: Sequence[Sequence[tuple[float, float]]], y: Axis, which: Sequence[int]
) -> Iterator[str]:
    taken, names = list(_taken(lines, places, y)), list[Box]()
    for i in sorted(which, key=lambda i: places[i][-1][::-1]):
        (a, b), width = places[i][-1], _LETTER * len(lines[i].label)
        box = _free(a, b, width, taken, names)
        names.append(box)
        leader = _leader(a, b, box)
        taken += [box, *leader]
        left, top, right, bottom = box
        middle = (top + bottom) / 2
        if leader:
            near = _nearest(a, box)
            yield f'<line class="leader" x1="{a:.1f}" y1="{b:.1f}" x2="{near:.1f}" y2="{middle:.1f}"/>'
        anchor, start = ("end", right) if right <= a else ("start", left)
        yield f'<text x="{start:.1f}" y="{middle + 4:.1f}" text-anchor="{anchor}">{escape(lines[i].label)}</text>'


def _taken(lines: Sequence[Line], places: Sequence[Sequence[tuple[float, float]]], y: Axis) -> Iterator[Box]:
    """What names must not cover: points with their intervals, and lines in short pieces."""
    for line, own in zip(lines, places, strict=True):
        for point, (a, b) in zip(line.points, own, strict=True):
            if not line.dashed:
                yield a - 4, min(y(point.high), b - 4), a + 4, max(y(point.low), b + 4)
        for (a, b), (c, d) in pairwise(own):
            yield from _pieces(a, b, c, d)


def _pieces(a: float, b: float, c: float, d: float) -> Iterator[Box]:
    """A line from (a, b) to (c, d) in pieces of 5 pixels."""
    number = max(1, round(math.hypot(c - a, d - b) / 5))
    for k in range(number + 1):
        x, y = a + (c - a) * k / number, b + (d - b) * k / number
        yield x - 1, y - 1, x + 1, y + 1


def _nearest(a: float, box: Box) -> float:
    """Where the leader of a point at x = a ends on its name."""
    return box[0] if box[0] >= a else box[2] if box[2] <= a else a


def _leader(a: float, b: float, box: Box) -> list[Box]:
    """The pieces of the line from a point to its name; none where the name is next to it."""
    end, middle = _nearest(a, box), (box[1] + box[3]) / 2
    return list(_pieces(a, b, end, middle)) if math.hypot(end - a, middle - b) > 14 else []


def _free(a: float, b: float, width: float, taken: Sequence[Box], names: Sequence[Box]) -> Box:
    """The place of a name nearest to its point that covers nothing and whose leader crosses no name; where none is, one
    that covers nothing; where none is, the nearest of all."""

    def box(side: bool, dx: int, dy: int) -> Box:
        left = a - 7 - dx - width if side else a + 7 + dx
        return left, b + dy - _LINE / 2, left + width, b + dy + _LINE / 2

    second = None
    for _, side, dx, dy in _shifts():
        found = box(side, dx, dy)
        if _is_within(found) and not _meets_any(found, taken):
            if not any(_meets_any(piece, names) for piece in _leader(a, b, found)):
                return found
            second = second or found
    return second or box(False, 0, 0)


@cache
def _shifts() -> list[tuple[int, bool, int, int]]:
    """How far, to the left, and by how many pixels a name may be from its point, nearest first."""
    return sorted(
        (dx + abs(dy) + (8 if left else 0), left, dx, dy)
        for dx in range(0, WIDTH, 6)
        for dy in range(-HEIGHT, HEIGHT, 3)
        for left in (False, True)
    )


def _is_within(box: Box) -> bool:
    return box[0] >= _LEFT and box[2] <= WIDTH - 2 and box[1] >= _TOP - 8 and box[3] <= HEIGHT - _BOTTOM


def _meets_any(box: Box, taken: Iterable[Box]) -> bool:
    return any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
    )
