"""Pictures of code vectors: similarity and norm heat maps, t-SNE, and what the decoder makes of each code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vqpipe.artifacts.specs.evaluation import DECODED, SIMILARITY
from vqpipe.artifacts.tables import read_table
from vqpipe.params.report import ReportParams
from vqpipe.report.about_reconstructions import evaluations
from vqpipe.report.blocks import Absent, Block, Chart, Charts, Gallery, Picture, Text
from vqpipe.report.code_figures import norm_grid, scatter, similarity_map
from vqpipe.report.evaluated_books import Book
from vqpipe.report.inputs import Inputs
from vqpipe.report.names import number
from vqpipe.report.pictures import decode_png, heat_scale, picture, scale_bar, signed_scale

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
        note = f"The {number(len(rows))} most used of {number(len(book.counts))} codes, similar ones side by side."
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
        caption = f"{some} {number(len(shown))} codes; largest of a used one {number(top)}; {means}"
        image = picture(
            norm_grid(lengths, top if top > 0 else 1.0), f"norms of the codes of {book.label}", caption
        )
        groups.append((book.label, [image]))
    note = (
        "One cell for each code, in reading order from the most used to the least used. Unused codes, at the end, "
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
            "something, distances between far groups do not. Inactive codes in clumps of their own lie far from what "
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
            times = f"{number(row['count'])} times" if row["count"] else "never used"
            alt = f"{variant} decodes a grid of {' '.join(labels)}"
            where = f"{folder / 'decoded.parquet'}: code {' '.join(labels)}"
            pixels = decode_png(row["picture"], side, where, "evaluate")
            shown = picture(pixels, alt, f"{label}: {times}")
            groups.setdefault(title, []).append(shown)
        if rows:
            blocks.append(Gallery(variant, list(groups.items()), "" if blocks else note, dense=True))
    return blocks or [Absent("Decoded codes are absent: evaluate.health in the params asks for none.")]
