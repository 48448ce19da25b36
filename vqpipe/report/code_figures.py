"""Drawings of codes: points in the plane, similarity maps with the codes' names, and grids of norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape

from vqpipe.report.blocks import Picture
from vqpipe.report.charts import clip_word, open_svg
from vqpipe.report.pictures import heat_map, picture, signed_map

_SIDE, _EDGE = 320, 12
_CELL, _LETTERS = 13, 16
_FEWEST_PIXELS = 260


def scatter(points: Sequence[tuple[str, Float[np.ndarray, "n 2"]]], alt: str, side: int = _SIDE) -> Markup:
    """Dots of several classes on one scale, (colour class, places); later classes lie on top.

    The axes have no unit, so none are drawn. All dots of a class are one path of zero-length strokes, which keeps a
    map of a thousand codes small.
    """
    everything = np.concatenate([places for _, places in points])
    if len(everything) == 0:
        return Markup('<p class="absent">no points to draw</p>')
    low, high = everything.min(0), everything.max(0)
    scale = (side - 2 * _EDGE) / max(float((high - low).max()), 1e-12)
    height = round(float((high - low)[1]) * scale) + 2 * _EDGE
    parts = [open_svg(side, height, alt)]
    for colour, places in points:
        at = (places - (low + high) / 2) * scale + np.array([side, height]) / 2
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in at.tolist())
        if path:
            parts.append(f'<path class="dots {escape(colour)}" d="{path}"/>')
    return Markup("".join([*parts, "</svg>"]))


def similarity_map(
    cosine: Float[np.ndarray, "m m"],
    names: Sequence[str],
    alt: str,
    above: Sequence[str] | None = None,
    cell: int = _CELL,
) -> Markup:
    """Cosines as colours of [-1, 1], the codes' names beside the rows and above the columns, or others `above`; cells
    of `cell` pixels.

    Wider than a narrow window, it scrolls in its own box rather than shrink its names.
    """
    count = len(names)
    side = cell * count
    shown = [clip_word(name, _LETTERS) for name in names]
    tops = shown if above is None else [clip_word(name, _LETTERS) for name in above]
    label, top = (12 + 7 * max((len(name) for name in part), default=0) for part in (shown, tops))
    width, height = label + side, top + side
    image: Picture = picture(signed_map(np.asarray(cosine, dtype=np.float64)), alt)
    parts = [open_svg(width, height, alt, fixed=True)]
    parts.append(
        f'<image class="pixels" x="{label}" y="{top}" width="{side}" height="{side}" href="{image.uri}"/>'
    )
    for i, (name, over) in enumerate(zip(shown, tops, strict=True)):
        along = cell * (i + 0.5)
        parts.append(
            f'<text class="code" x="{label - 5}" y="{top + along + 4:g}" text-anchor="end">{escape(name)}</text>'
            f'<text class="code" transform="translate({label + along + 4:g} {top - 5}) rotate(-90)">'
            f"{escape(over)}</text>"
        )
    inside = "".join([*parts, "</svg>"])
    return Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>').format(
        alt, Markup(inside)
    )


def norm_grid(norms: Float[np.ndarray, " m"], top: float) -> np.ndarray:
    """Norms in reading order in a grid about as wide as high, coloured over [0, top] and enlarged to be seen; cells
    after the last are grey."""
    columns = max(1, math.ceil(math.sqrt(len(norms))))
    rows = max(1, math.ceil(len(norms) / columns))
    pixels = np.full((rows * columns, 3), 128, dtype=np.uint8)
    pixels[: len(norms)] = heat_map(np.asarray(norms, dtype=np.float64)[None], top)[0]
    scale = max(1, _FEWEST_PIXELS // columns)
    return pixels.reshape(rows, columns, 3).repeat(scale, axis=0).repeat(scale, axis=1)
