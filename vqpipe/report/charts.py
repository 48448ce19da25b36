"""Small SVG charts without scripts: lines on linear or logarithmic axes, and a drawing of a bipartite graph.

Colours are classes (`c0` … `c7`) that the page's style sheet gives for light and dark. Equal data give
equal text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

NUM_COLOURS = 8
NAMED_COLOURS = {
    "blue": 0, "brown": 1, "orange": 1, "green": 2, "pink": 3, "purple": 3, "violet": 3, "gold": 4, "golden": 4,
    "yellow": 4, "turquoise": 5, "red": 6, "black": 7, "gray": 7, "grey": 7, "silver": 7, "white": 7,
}  # fmt: skip
"""Words whose edges have the colour that they name, as nearly as the palette has it."""
UNNAMED = (7, 5)
"""The colours of other words' edges, in turn: grey and teal, which few words name."""
MAX_POINTS = 300
"""A line is thinned to at most this many points."""

MOST_NARROW = 360
"""Width of a drawing that shrinks to a phone's window, in pixels."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 24, 12, 44


@dataclass(frozen=True)
class Series:
    """A line: finite `x` and `y` of equal length, and its colour class."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis: it maps a value to a position in pixels, `start` at `low`."""

    low: float
    high: float
    log: bool
    start: float
    length: float

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        share = ((math.log10(value) if self.log else value) - low) / (high - low)
        return round(self.start + share * self.length, 1)

    def ticks(self, most: int) -> list[float]:
        return _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)


def legend(labels: Sequence[str]) -> list[tuple[str, str]]:
    """The colour class of each of several lines, in their order, and its label."""
    return [(f"c{at % NUM_COLOURS}", label) for at, label in enumerate(labels)]


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    log_x: bool = False,
    log_y: bool = False,
    width: int = 340,
    height: int = 220,
) -> Markup:
    """Draw lines over common axes. Points that a logarithmic axis cannot show (zero or less) are left out."""
    shown = [s for s in (_visible(item, log_x, log_y) for item in series) if s.x]
    if not shown:
        return Markup('<p class="absent">no points to draw</p>')
    y = axis_over(
        [v for s in shown for v in s.y], log_y, height - _BOTTOM, -(height - _TOP - _BOTTOM), pad=0.06
    )
    longest = max((len(tick_label(tick)) for tick in y.ticks(5)), default=0)
    left = max(_LEFT - 16, 12 + 7 * longest) + (16 if y_label else 0)
    x = axis_over([v for s in shown for v in s.x], log_x, left, width - left - _RIGHT, pad=0.0)
    parts = [open_svg(width, height, alt)]
    for tick in y.ticks(5):
        at = y(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - _RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{at + 4}" text-anchor="end">{tick_label(tick)}</text>'
        )
    for tick in x.ticks(5):
        at = x(tick)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        parts.append(
            f'<text class="tick" x="{at}" y="{height - _BOTTOM + 16}" '
            f'text-anchor="middle">{tick_label(tick)}</text>'
        )
    parts.append(
        f'<text class="axis" x="{(left + width - _RIGHT) / 2}" y="{height - 8}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
    )
    middle = (_TOP + height - _BOTTOM) / 2
    if y_label:
        parts.append(
            f'<text class="axis" transform="translate(14 {middle}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_label)}</text>'
        )
    for item in shown:
        name = f'class="line c{item.colour % NUM_COLOURS}{" dashed" if item.dashed else ""}"'
        if len(item.x) == 1:
            parts.append(
                f'<circle {name} cx="{x(item.x[0])}" cy="{y(item.y[0])}" '
                f'r="3"><title>{escape(item.label)}</title></circle>'
            )
            continue
        points = " ".join(f"{x(a)},{y(b)}" for a, b in zip(item.x, item.y, strict=True))
        parts.append(f'<polyline {name} points="{points}"><title>{escape(item.label)}</title></polyline>')
    return close_svg(parts, width, alt)


def rank_frequency(
    counts: Sequence[tuple[str, Sequence[int]]],
    alt: str,
    x_label: str = "rank of the code",
    y_label: str = "times used",
) -> Markup:
    """Falling counts against their rank, logarithmic axes; a line ends at its last nonzero count."""
    series = []
    for colour, (label, values) in enumerate(counts):
        used = np.sort(np.asarray(values, dtype=np.int64))[::-1]
        used = used[used > 0]
        series.append(
            Series(label, (np.arange(len(used)) + 1.0).tolist(), used.astype(float).tolist(), colour)
        )
    return line_chart(
        series, x_label=x_label, y_label=y_label, alt=alt, log_x=True, log_y=True, width=760, height=380
    )


def bipartite(edges: Sequence[tuple[str, str, float]], left: str, right: str, alt: str) -> Markup:
    """Draw weighted edges between two columns of words, each word on its own line.

    The words are ordered by the mean position of their neighbours, which keeps most edges from crossing.
    The width of an edge grows with the square root of its weight; its colour is that which its left word names, if
    any.
    """
    sides = _ordered(edges)
    gap, top, width = 24, 40, 640
    height = top + gap * max(len(side) for side in sides) + 6
    inner = [width * 0.32, width * 0.68]
    offsets = [(height - top - gap * len(side)) / 2 for side in sides]
    at = [
        {word: top + offset + gap * (i + 0.5) for i, word in enumerate(side)}
        for side, offset in zip(sides, offsets, strict=True)
    ]
    heaviest = max(weight for _, _, weight in edges)
    parts = [open_svg(width, height, alt)]
    parts.append(f'<text class="axis" x="{inner[0]:.1f}" y="20" text-anchor="end">{escape(left)}</text>')
    parts.append(f'<text class="axis" x="{inner[1]:.1f}" y="20">{escape(right)}</text>')
    colour = {word: NAMED_COLOURS.get(word, UNNAMED[i % len(UNNAMED)]) for i, word in enumerate(sides[0])}
    x1, x2, bend = inner[0] + 8, inner[1] - 8, (inner[1] - inner[0]) * 0.45
    for a, b, weight in sorted(edges, key=lambda edge: (edge[2], edge[0], edge[1])):
        y1, y2 = at[0][a], at[1][b]
        path = f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
        stroke = 1 + 7 * math.sqrt(weight / heaviest)
        parts.append(
            f'<path class="edge c{colour[a]}" stroke-width="{stroke:.1f}" '
            f'd="{path}"><title>{escape(a)} {escape(b)}: {weight:,.0f}</title></path>'
        )
    for word, y in at[0].items():
        parts.append(
            f'<text class="word" x="{inner[0]:.1f}" y="{y + 5:.1f}" '
            f'text-anchor="end">{escape(clip_word(word))}</text>'
        )
    for word, y in at[1].items():
        parts.append(
            f'<text class="word" x="{inner[1]:.1f}" y="{y + 5:.1f}">{escape(clip_word(word))}</text>'
        )
    return close_svg(parts, width, alt)


def clip_word(word: str, most: int = 22) -> str:
    """A word for a place of `most` letters."""
    return word if len(word) <= most else word[: most - 1] + "…"


def _ordered(edges: Sequence[tuple[str, str, float]]) -> tuple[list[str], list[str]]:
    sides = (sorted({a for a, _, _ in edges}), sorted({b for _, b, _ in edges}))
    for turn in range(8):
        own, other = turn % 2, 1 - turn % 2
        rank = {word: i / max(1, len(sides[other]) - 1) for i, word in enumerate(sides[other])}
        mean: dict[str, tuple[float, str]] = {}
        for word in sides[own]:
            near = [(rank[(a, b)[other]], weight) for a, b, weight in edges if (a, b)[own] == word]
            mean[word] = (sum(r * w for r, w in near) / sum(w for _, w in near), word)
        sides[own].sort(key=mean.__getitem__)
    return sides


def open_svg(width: float, height: float, alt: str, fixed: bool = False) -> str:
    """The opening tag of a drawing that shrinks with its place while its text is legible; a `fixed` one does not."""
    style = f"width:{width:g}px" if fixed else f"min-width:{width * 0.75:g}px;max-width:{width * 1.1:g}px"
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alt)}" style="{style}">'


def close_svg(parts: Sequence[str], width: float, alt: str, fixed: bool = False) -> Markup:
    """A drawing from its parts; one that cannot shrink to a narrow window scrolls in its own box."""
    drawing = Markup("".join([*parts, "</svg>"]))
    if width <= MOST_NARROW and not fixed:
        return drawing
    return Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>').format(
        alt, drawing
    )


def _visible(series: Series, log_x: bool, log_y: bool) -> Series:
    keep = [
        (a, b)
        for a, b in zip(series.x, series.y, strict=True)
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]
    if len(keep) > MAX_POINTS:
        if log_x:
            index = np.unique(np.round(np.geomspace(1, len(keep), MAX_POINTS)).astype(int)) - 1
        else:
            index = np.unique(np.linspace(0, len(keep) - 1, MAX_POINTS).round().astype(int))
        keep = [keep[i] for i in index]
    return Series(series.label, [a for a, _ in keep], [b for _, b in keep], series.colour, series.dashed)


def axis_over(values: Sequence[float], log: bool, start: float, length: float, pad: float) -> Axis:
    """An axis that contains all values and a share of room, `pad`, at each end; `length` is negative upwards."""
    low, high = min(values), max(values)
    if log:
        low, high = low / (1 + pad), high * (1 + pad)
        return Axis(low, high if high > low else low * 10, log, start, length)
    if high == low:
        low, high = low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    margin = (high - low) * pad
    return Axis(low - margin, high + margin, log, start, length)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    whole = [10.0**i for i in range(first, last + 1)]
    if len(whole) >= 3:
        return whole[:: max(1, math.ceil(len(whole) / (most + 2)))]
    fine = [m * 10.0**i for i in range(first - 1, last + 1) for m in (1, 2, 5)]
    inside = [tick for tick in fine if low * 0.999 <= tick <= high * 1.001]
    return inside or [low, high]


def tick_label(value: float) -> str:
    """A tick's number, with commas from a thousand on."""
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-4:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:g}"
