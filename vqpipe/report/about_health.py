"""Health of the codes: use over images and training, similarity and norms, their map, and each code decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape

from vqpipe.artifacts.specs.evaluation import DECODED, SIMILARITY, USAGE_CURVE
from vqpipe.artifacts.tables import read_table
from vqpipe.errors import counted
from vqpipe.report.about_reconstructions import Book, evaluations, read_books, replaced
from vqpipe.report.blocks import (
    Absent,
    Block,
    Cell,
    Chart,
    Charts,
    Column,
    Gallery,
    Picture,
    Section,
    Table,
    Text,
)
from vqpipe.report.charts import Series, clip_word, close_svg, legend, line_chart, open_svg
from vqpipe.report.inputs import Curve, Inputs, ReportParams
from vqpipe.report.names import HIGHER, LOWER, number
from vqpipe.report.pictures import (
    decode_png,
    heat_map,
    heat_scale,
    picture,
    scale_bar,
    signed_map,
    signed_scale,
)

WATCHED = {
    "ae/dead_share_": ("dead codes, % of K", 100.0),
    "ae/window_used_share_": ("used in a window of the curve, % of K", 100.0),
    "ae/window_perplexity_": ("perplexity of that window, codes", 1.0),
}
"""Columns of the training curves that are drawn here, each with the group's number behind it: title and factor."""


def about_health(inputs: Inputs, params: ReportParams) -> Section:
    """The section `Health of the codebooks`."""
    books = read_books(inputs)
    blocks: list[Block] = []
    if books:
        blocks += [
            Text(
                "A codebook is healthy when most of its codes are used, none dominates, and different codes decode "
                "differently. Read used codes with perplexity and tail: a code that is used once counts as used."
            ),
            _numbers(inputs, books),
        ]
    else:
        blocks.append(
            Absent("The codebooks' health is absent: no evaluation in this checkout. Run: dvc repro evaluate")
        )
    blocks += _over_training(inputs, {(b.variant, b.index): b.label for b in books})
    if not books:
        return Section("health", "Health of the codebooks", blocks)
    parts = [
        Section("health-usage", "Codes against images seen", _usage_curves(books)),
        Section("health-similarity", "How similar codes are", similarity(books)),
        Section("health-norms", "Norms of the codes", norms(books)),
        Section("health-map", "Active and inactive codes", maps(books)),
        Section("health-decoded", "Each code through the decoder", decoded(inputs, params)),
        Section("health-replaced", "Tokens replaced by others", replaced(inputs, params)),
    ]
    return Section("health", "Health of the codebooks", blocks, parts)


def _numbers(inputs: Inputs, books: Sequence[Book]) -> Table:
    columns = [
        Column("codebook", numeric=False),
        Column("used", "of K codes", HIGHER),
        Column("perplexity / K", "%", HIGHER),
        Column("tail mass", "% of tokens", HIGHER),
        Column("90 % of tokens in", "% of codes", HIGHER),
        Column("dead at the end", "% of codes", LOWER),
        Column("collapse", "at step"),
        Column("nearest code", "mean cosine"),
    ]
    rows = []
    for book in books:
        evaluated = inputs.evaluate.get(book.variant)
        found = evaluated.codes.get(book.group) if evaluated is not None else None
        near = found.nearest_similarity if found is not None else None
        sampled = found.nearest_similarity_sampled if found is not None else None
        curve = inputs.curves.get("tokenizer", {}).get(book.variant, {})
        used, share = int((book.counts > 0).sum()), float((book.counts > 0).mean())
        rows.append(
            [
                Cell(book.label),
                Cell(f"{number(used)} of {number(len(book.counts))}", f"{share:.1%}"),
                *(
                    _percent(getattr(found, name, None))
                    for name in ("perplexity_share", "tail_mass", "share_for_90_percent")
                ),
                _percent(_last(curve, f"ae/dead_share_{book.index}")),
                Cell(_collapse(inputs, book)),
                _nearest(near, sampled),
            ]
        )  # fmt: skip
    note = (
        "Tail mass: tokens that fall on the less used half of the codes, 50 % for even use. Dead: not used for as long "
        "as an evenly used code is missed with probability e^-4, over training batches. Collapse: the step at which "
        "training warned that perplexity had fallen and stayed low; – where the run did not watch it. "
        f"{HIGHER} higher is better, {LOWER} lower is better."
    )
    return Table("The codebooks in numbers", columns, rows, note)


def _nearest(value: float | None, sampled: float | None) -> Cell:
    if sampled is not None:
        return Cell(number(sampled, 3), "of a sample")
    return Cell("–" if value is None else number(value, 3))


def _percent(value: Any) -> Cell:
    return Cell("–") if value is None else Cell(number(100 * float(value), 1))


def _last(curve: Curve, name: str) -> float | None:
    values = [value for value in curve.get(name, []) if math.isfinite(value)]
    return values[-1] if values else None


def _collapse(inputs: Inputs, book: Book) -> str:
    trained = inputs.tokenizer.get(book.variant)
    if trained is None or book.index >= len(trained.codes.collapse_steps):
        return "–"
    step = trained.codes.collapse_steps[book.index]
    return "none" if step is None else number(step)


def _over_training(inputs: Inputs, labels: Mapping[tuple[str, int], str]) -> list[Block]:
    """Dead codes, used codes and perplexity by step, a line for each codebook."""
    curves = inputs.curves.get("tokenizer", {})
    lines = sorted(
        {(variant, int(name[len(prefix) :])) for variant, curve in curves.items() for name in curve
         for prefix in WATCHED if name.startswith(prefix)},
        key=lambda line: (inputs.variants.index(line[0]), line[1]),
    )  # fmt: skip
    if not lines:
        return [
            Absent(
                "The time line of dead codes is absent: no training curve contains it. Run: dvc repro tokenizer"
            )
        ]
    several = {variant for variant, index in lines if index > 0}
    titles = [labels.get((v, i), f"{v}, group {i}" if v in several else v) for v, i in lines]
    charts = []
    for prefix, (title, scale) in WATCHED.items():
        series = [
            Series(label, curves[variant]["step"], [scale * y for y in curves[variant].get(f"{prefix}{index}", [])], n)
            for n, ((variant, index), label) in enumerate(zip(lines, titles, strict=True))
            if f"{prefix}{index}" in curves[variant]
        ]  # fmt: skip
        if series:
            charts.append(
                Chart(line_chart(series, x_label="step", y_label="", alt=f"{title} by step"), title)
            )
    note = (
        "Counted on the training batches of all ranks. Dead codes are known only after as many steps as an evenly used "
        "code may be missed, so that their line starts later."
    )
    return [Charts("Codes over the training", charts, legend(titles), note)]


def _usage_curves(books: Sequence[Book]) -> list[Block]:
    series, drawn = [], set()
    for colour, book in enumerate(books):
        rows = read_table(book.folder / "usage_curve.parquet", USAGE_CURVE).to_pylist()
        own, count = [row for row in rows if row["group"] == book.group], len(book.counts)
        x = [float(row["images"]) for row in own]
        series.append(Series(book.label, x, [100 * row["used"] / count for row in own], colour))
        expected = tuple(round(100 * row["uniform"] / count, 6) for row in own)
        if expected not in drawn:
            drawn.add(expected)
            label = f"uniform draws of {counted(count, 'code')}"
            series.append(Series(label, x, list(expected), colour, dashed=True))
    svg = line_chart(
        series, x_label="images seen", y_label="used codes, % of K", log_x=True, width=520, height=300,
        alt="Share of codes used at least once against the number of images seen, one line per codebook",
    )  # fmt: skip
    note = (
        "Codes used at least once by the first images, in one random order for all tokenizers. Dashed: what as many "
        "uniform draws would reach, once for each K. A curve that still rises means that more images would use more "
        "codes; one that is flat far below 100 % means that the rest is dead."
    )
    return [
        Charts(
            "Usage against images seen", [Chart(svg, "")], legend([b.label for b in books]), note, wide=True
        )
    ]


MOST_NORMS = 4096
"""Codes of a norm map, the most used ones."""
MOST_PIXELS = 64
"""Longer side of a decoded code."""


def similarity(books: Sequence[Book]) -> list[Block]:
    """A heat map of cosines for each codebook."""
    blocks: list[Block] = []
    for book in books:
        rows = [
            row for row in read_table(book.folder / "similarity.parquet", SIMILARITY).to_pylist()
            if row["group"] == book.group
        ]  # fmt: skip
        if not rows:
            continue
        cosine = np.array([row["cosine"] for row in rows])
        names = [row["name"] or str(row["code"]) for row in rows]
        alt = f"cosine similarity of the {len(rows)} most used codes of {book.label}"
        note = f"The {number(len(rows))} most used of {counted(len(book.counts), 'code')}, similar ones adjacent."
        off = cosine[~np.eye(len(rows), dtype=bool)]
        if len(off):
            mean, largest = number(float(off.mean()), 3), number(float(off.max()), 3)
            note += f" Cosine of two different ones: mean {mean}, largest {largest}."
        blocks.append(
            Charts(book.label, [Chart(similarity_map(cosine, names, alt), "")], (), note, wide=True)
        )
    if not blocks:
        return [Absent("Similarity maps are absent: evaluate.health in the params asks for none.")]
    text = Text(
        "Cosine between code vectors: the same direction is "
        "red, unrelated ones are near white, opposite ones blue."
    )
    scale = Gallery("Colours", [], scale=scale_bar("cosine", signed_scale(), "−1", "1"))
    return [text, scale, *blocks]


def norms(books: Sequence[Book]) -> list[Block]:
    """A heat map of norms for each codebook, codes in the order of use."""
    groups = []
    for book in books:
        shown = np.argsort(-book.counts, kind="stable")[:MOST_NORMS]
        lengths, alive = book.norms[shown], book.counts[shown] > 0
        top = float((lengths[alive] if alive.any() else lengths).max())
        means = ", ".join(
            f"mean of {word} codes {number(float(lengths[part].mean()))}"
            for word, part in (("used", alive), ("unused", ~alive)) if part.any()
        )  # fmt: skip
        some = "all" if len(shown) == len(book.counts) else "the most used"
        caption = f"{some} {counted(len(shown), 'code')}; largest of a used one {number(top)}; {means}"
        image = picture(
            norm_grid(lengths, top if top > 0 else 1.0), f"norms of the codes of {book.label}", caption
        )
        groups.append((book.label, [image]))
    note = (
        "One cell for each code, row by row from the most used to the least used. Unused codes, at the end, "
        "often keep the norm they started with; an edge between the colours there shows where use ends."
    )
    scale = scale_bar("norm", heat_scale(), "0", "largest of a used code")
    return [Gallery("Norm of each code", groups, note, scale, compact=True)]


def maps(books: Sequence[Book]) -> list[Block]:
    """t-SNE of each codebook's codes, used and unused ones apart."""
    charts, absent = [], []
    for book in books:
        there = np.isfinite(book.places).all(axis=1)
        if not there.any():
            absent.append(f"{book.label}: {book.no_map or 'not asked for'}")
            continue
        used = book.counts > 0
        points = [("d0", book.places[there & used]), ("d1", book.places[there & ~used])]
        points.sort(key=lambda item: -len(item[1]))
        some = "" if there.all() else f", {number(int(there.sum()))} drawn at random"
        active, inactive = (number(int((there & part).sum())) for part in (used, ~used))
        title = f"{book.label}: {active} active, {inactive} inactive{some}"
        charts.append(Chart(scatter(points, f"t-SNE of the codes of {title}"), title))
    blocks: list[Block] = []
    if charts:
        note = (
            "t-SNE of the code vectors; active codes are used at least once over the test split. Neighbours mean "
            "something, distances between far groups do not. Inactive codes in clumps of their own are far from what "
            "the encoder gives."
        )
        blocks.append(Charts("t-SNE of the codes", charts, [("d0", "active"), ("d1", "inactive")], note))
    if absent:
        blocks.append(Absent(f"Without a map: {'; '.join(absent)}."))
    return blocks


def decoded(inputs: Inputs, params: ReportParams) -> list[Block]:
    """A gallery for each tokenizer: grids filled with one code, or one pair of codes, as the decoder shows them."""
    blocks: list[Block] = []
    side = min(MOST_PIXELS, params.max_picture_pixels)
    note = (
        "A grid filled with one code goes through the decoder; of two codebooks of words, with one pair: a row for "
        "each adjective, the nouns along it. The most used codes come first. Codes that decode alike are spare."
    )
    for variant, folder in evaluations(inputs):
        rows = read_table(folder / "decoded.parquet", DECODED).to_pylist()
        kinds = list(dict.fromkeys(row["group"] for row in rows))
        groups: dict[str, list[Picture]] = {}
        for row in rows:
            labels = [name or str(code) for name, code in zip(row["names"], row["codes"], strict=True)]
            if row["group"] == "pair":
                title, label = labels[0], labels[1]
            else:
                title, label = (row["group"] if len(kinds) > 1 else ""), labels[kinds.index(row["group"])]
            times = counted(row["count"], "time") if row["count"] else "never used"
            alt = f"{variant} decodes a grid of {' '.join(labels)}"
            where = f"{folder / 'decoded.parquet'}: code {' '.join(labels)}"
            pixels = decode_png(row["picture"], side, where, "evaluate")
            shown = picture(pixels, alt, f"{label}: {times}")
            groups.setdefault(title, []).append(shown)
        if rows:
            blocks.append(Gallery(variant, list(groups.items()), "" if blocks else note, dense=True))
    return blocks or [Absent("Decoded codes are absent: evaluate.health in the params asks for none.")]


_SIDE, _EDGE = 320, 12
_CELL, _LETTERS = 13, 16
_FEWEST_PIXELS = 260


def scatter(points: Sequence[tuple[str, Float[np.ndarray, "n 2"]]], alt: str, side: int = _SIDE) -> Markup:
    """Dots of several classes on one scale, (colour class, places); later classes are drawn on top.

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
    """Cosines as colours of [-1, 1], the codes' names next to the rows and above the columns, or others `above`; cells
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
    return close_svg(parts, width, alt, fixed=True)


def norm_grid(norms: Float[np.ndarray, " m"], top: float) -> np.ndarray:
    """Norms row by row in a grid about as wide as high, coloured over [0, top] and enlarged to be seen; cells
    after the last are grey."""
    columns = max(1, math.ceil(math.sqrt(len(norms))))
    rows = max(1, math.ceil(len(norms) / columns))
    pixels = np.full((rows * columns, 3), 128, dtype=np.uint8)
    pixels[: len(norms)] = heat_map(np.asarray(norms, dtype=np.float64)[None], top)[0]
    scale = max(1, _FEWEST_PIXELS // columns)
    return pixels.reshape(rows, columns, 3).repeat(scale, axis=0).repeat(scale, axis=1)
