"""The codebooks' health: how many codes live, how soon they are seen, how they lie, what the decoder makes of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vqpipe.artifacts.specs.evaluation import USAGE_CURVE
from vqpipe.artifacts.tables import read_table
from vqpipe.params.report import ReportParams
from vqpipe.report.blocks import Absent, Block, Cell, Chart, Charts, Column, Section, Table, Text
from vqpipe.report.charts import NUM_COLOURS, Series, line_chart
from vqpipe.report.evaluated_books import Book, read_books
from vqpipe.report.health_pictures import decoded, maps, norms, similarity
from vqpipe.report.inputs import Curve, Inputs
from vqpipe.report.names import HIGHER, LOWER, number
from vqpipe.report.replaced_pictures import replaced

WATCHED = ("ae/dead_share_", "ae/window_used_share_", "ae/window_perplexity_")
"""Columns of the training curves that are drawn here, each with the group's number behind it."""


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
        found = inputs.evaluate.get(book.variant, {}).get("codes", {}).get(book.group, {})
        sampled = "nearest_similarity_sampled" in found
        near = found.get("nearest_similarity_sampled" if sampled else "nearest_similarity")
        curve = inputs.curves.get("tokenizer", {}).get(book.variant, {})
        used, share = int((book.counts > 0).sum()), float((book.counts > 0).mean())
        rows.append(
            [
                Cell(book.label),
                Cell(f"{number(used)} of {number(len(book.counts))}", f"{share:.1%}"),
                *(_percent(found.get(name)) for name in ("perplexity_share", "tail_mass", "share_for_90_percent")),
                _percent(_last(curve, f"ae/dead_share_{book.index}")),
                Cell(_collapse(inputs, book)),
                Cell("–" if near is None else number(near, 3), "of a sample" if sampled else ""),
            ]
        )  # fmt: skip
    note = (
        "Tail mass: tokens that fall on the less used half of the codes, 50 % for even use. Dead: not used for as long "
        "as an evenly used code is missed with probability e^-4, over training batches. Collapse: the step at which "
        "training warned that perplexity had fallen and stayed low; – where the run did not watch it. "
        f"{HIGHER} higher is better, {LOWER} lower is better."
    )
    return Table("The codebooks in numbers", columns, rows, note)


def _percent(value: Any) -> Cell:
    return Cell("–") if value is None else Cell(number(100 * float(value), 1))


def _last(curve: Curve, name: str) -> float | None:
    values = [value for value in curve.get(name, []) if math.isfinite(value)]
    return values[-1] if values else None


def _collapse(inputs: Inputs, book: Book) -> str:
    watched = inputs.tokenizer.get(book.variant, {}).get("codes", {}).get("collapse_steps")
    if not isinstance(watched, list) or book.index >= len(watched):
        return "–"
    step = watched[book.index]
    return "none" if step is None else number(step)


def _over_training(inputs: Inputs, labels: Mapping[tuple[str, int], str]) -> list[Block]:
    """Dead codes, used codes and perplexity by step, a line for each codebook."""
    wanted = (
        ("ae/dead_share_", "dead codes, % of K", 100.0),
        ("ae/window_used_share_", "used in a window of the curve, % of K", 100.0),
        ("ae/window_perplexity_", "perplexity of that window, codes", 1.0),
    )
    curves = inputs.curves.get("tokenizer", {})
    lines = sorted(
        {(variant, int(name[len(prefix) :])) for variant, curve in curves.items() for name in curve
         for prefix in WATCHED if name.startswith(prefix)},
        key=lambda line: (inputs.variants.index(line[0]), line[1]),
    )  # fmt: skip
    if not lines:
        return [
            Absent(
                "The time line of dead codes is absent: no training curve holds it. Run: dvc repro tokenizer"
            )
        ]
    several = {variant for variant, index in lines if index > 0}
    titles = [labels.get((v, i), f"{v}, group {i}" if v in several else v) for v, i in lines]
    charts = []
    for prefix, title, scale in wanted:
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
    return [Charts("Codes over the training", charts, _legend(titles), note)]


def _legend(labels: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"c{i % NUM_COLOURS}", label) for i, label in enumerate(labels)]


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
            label = f"uniform draws of {number(count)} codes"
            series.append(Series(label, x, list(expected), colour, dashed=True))
    svg = line_chart(
        series, x_label="images seen", y_label="used codes, % of K", log_x=True, width=520, height=300,
        alt="Share of codes used at least once against the number of images seen, one line per codebook",
    )  # fmt: skip
    note = (
        "Codes used at least once by the first images, in one random order for all tokenizers. Dashed: what as many "
        "uniform draws would reach, once for each K. A curve that still rises says that more images would use more "
        "codes; one that is flat far below 100 % says that the rest is dead."
    )
    return [
        Charts(
            "Usage against images seen", [Chart(svg, "")], _legend([b.label for b in books]), note, wide=True
        )
    ]
