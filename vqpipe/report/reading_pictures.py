"""What readings say of single images, side by side: masked words, retrieval, and cosines of words and codes.

LG-VQ's figures 4 (retrieval), 5 (masked words) and 6 (cosines).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from vqpipe.artifacts.spec import TableSpec
from vqpipe.artifacts.specs.reading import READING_MASKED, READING_RETRIEVAL, READING_SIMILARITY
from vqpipe.artifacts.tables import read_table
from vqpipe.params.report import ReportParams
from vqpipe.report.blocks import Answer, Block, Example, Examples, Line, Picture
from vqpipe.report.code_figures import similarity_map
from vqpipe.report.names import number
from vqpipe.report.pictures import decode_png, picture, scale_bar, signed_scale
from vqpipe.report.readings import COSINES, Reading

Row = Mapping[str, Any]
Said = tuple[Reading, Row]
"""A reading and what its artifact says of one example."""
Families = Sequence[Sequence[Reading]]

CANDIDATE_PIXELS = 80
"""Longer side of an image that is found."""
MAP_PIXELS, LEAST_CELL, MOST_CELL = 170, 13, 18
"""Side that a map of words aims at, and the sides of its cells."""


def masked_words(families: Families, params: ReportParams) -> list[Block]:
    """Captions with words left out, and what each reading puts there (figure 5)."""
    rows = _rows(families, "masked.parquet", READING_MASKED)
    blocks: list[Block] = []
    for count in sorted({row["count"] for _, row in rows}):
        own = [(reading, row) for reading, row in rows if row["count"] == count]
        items = [
            Example(
                row["masked"], _asked(row, params), _answers(families, said, _predictions),
                f"left out: {', '.join(row['words'])}",
            )
            for row, said in _grouped(own, ("image_id", "masked"), params)
        ]  # fmt: skip
        note = (
            "Images drawn at random. For each gap, in order, the likeliest word with its probability, whether it is "
            "right, and the next ones."
        )
        title = "One masked word" if count == 1 else f"{number(count)} masked words"
        blocks.append(Examples(f"{title}: examples", items, "" if blocks else note))
    return blocks


def retrieval(families: Families, params: ReportParams) -> list[Block]:
    """Images with the captions found for them, and captions with the images found (figure 4)."""
    rows = _rows(families, "retrieval.parquet", READING_RETRIEVAL)
    wanted: tuple[tuple[str, str, str, Callable[[Row], Answer]], ...] = (
        ("image_to_text", "Captions found for an image",
         "The image and its own caption; the best captions by each reading with their cosines.", _captions),
        ("text_to_image", "Images found for a caption",
         "The caption and its own image; the best images by each reading with their cosines.", _images),
    )  # fmt: skip
    blocks: list[Block] = []
    for way, title, note, answer in wanted:
        own = [(reading, row) for reading, row in rows if row["direction"] == way]
        items = [
            Example(row["caption"], _asked(row, params), _answers(families, said, answer))
            for row, said in _grouped(own, ("image_id",), params)
        ]
        if items:
            blocks.append(Examples(title, items, note))
    return blocks


def relations(families: Families, params: ReportParams) -> list[Block]:
    """Heat maps of the cosines of a caption's words and of the codes that stand for them (figure 6)."""
    rows = _rows(families, "similarity.parquet", READING_SIMILARITY)
    items = []
    for row, said in _grouped(rows, ("image_id", "words"), params):
        known = Answer("words", drawing=_map(row["word_cosines"], row["words"], f"words of {row['caption']}"))
        shown = [own for family in families for own in _maps(family, said)]
        items.append(Example(row["caption"], _asked(row, params), shown, known=known))
    if not items:
        return []
    note = (
        "Beside the words' cosines, those of the codes that the heads assign to them; columns bear the codes' numbers. "
        "The closer the patterns, the more of the words' relations the codes took over. Blocks of one colour come "
        "from words that one code stands for."
    )
    scale = scale_bar("cosine", signed_scale(), "\N{MINUS SIGN}1", "1")
    return [Examples("Cosines of words and of their codes", items, note, scale)]


def _rows(families: Families, file: str, spec: TableSpec) -> list[Said]:
    return [
        (reading, row | {"file": reading.folder / file})
        for family in families
        for reading in family
        if reading.has_tables
        for row in read_table(reading.folder / file, spec).to_pylist()
    ]


def _grouped(rows: Iterable[Said], keys: Sequence[str], params: ReportParams) -> list[tuple[Row, list[Said]]]:
    """Rows of one example together, the first one apart; the first `num_read_examples` images."""
    groups: dict[str, list[Said]] = {}
    for reading, row in rows:
        groups.setdefault(str([row[key] for key in keys]), []).append((reading, row))
    images = list(dict.fromkeys(said[0][1]["image_id"] for said in groups.values()))[
        : params.num_read_examples
    ]
    return [
        (said[0][1], said) for image in images for said in groups.values() if said[0][1]["image_id"] == image
    ]


def _answers(families: Families, said: Sequence[Said], answer: Callable[[Row], Answer]) -> list[list[Answer]]:
    """A row of answers for each family that says something."""
    rows = []
    for family in families:
        names = {reading.name for reading in family}
        own = [
            _titled(answer(row), f"{reading.label}, {row['reader']} heads")
            for reading, row in said
            if reading.name in names
        ]
        if own:
            rows.append(own)
    return rows


def _titled(answer: Answer, title: str) -> Answer:
    return Answer(title, answer.lines, answer.pictures, answer.drawing, answer.note)


def _asked(row: Row, params: ReportParams) -> Picture:
    where = f"{row['file']}: image {row['image_id']}"
    pixels = decode_png(row["picture"], params.max_picture_pixels, where, "read")
    return picture(pixels, f"test image {row['image_id']}: {row['caption']}")


def _percent(chance: float) -> str:
    return f"{number(100 * chance, 0)} %" if chance >= 0.095 else f"{number(100 * chance, 1)} %"


def _predictions(row: Row) -> Answer:
    lines = []
    columns = (row[name] for name in ("words", "predictions", "chances", "right"))
    for target, words, chances, right in zip(*columns, strict=True):
        others = ", ".join(f"{word} {_percent(p)}" for word, p in zip(words[1:], chances[1:], strict=True))
        lines.append(
            Line(words[0], _percent(chances[0]), right, others, "" if len(row["words"]) == 1 else target)
        )
    return Answer("", lines)


def _captions(row: Row) -> Answer:
    lines = [
        Line(caption, number(score, 2), True if right else None)
        for caption, score, right in zip(row["captions"], row["scores"], row["right"], strict=True)
    ]
    return Answer("", lines, note="" if any(row["right"]) else "its own caption is not among them")


def _images(row: Row) -> Answer:
    found = []
    columns = (row[name] for name in ("pictures", "image_ids", "scores", "right"))
    for content, image_id, score, right in zip(*columns, strict=True):
        pixels = decode_png(content, CANDIDATE_PIXELS, f"{row['file']}: image {image_id}", "read")
        alt = f"test image {image_id}, {'right' if right else 'not right'}"
        found.append(picture(pixels, alt, number(score, 2), right))
    return Answer("", pictures=found, note="" if any(row["right"]) else "its own image is not among them")


def _map(cosines: Any, words: Sequence[str], alt: str, above: Sequence[str] | None = None) -> Markup:
    return similarity_map(
        np.array(cosines, dtype=np.float64), words, f"cosines of {alt}", above,
        cell=min(MOST_CELL, max(LEAST_CELL, MAP_PIXELS // len(words))),
    )  # fmt: skip


def _maps(family: Sequence[Reading], said: Sequence[Said]) -> list[list[Answer]]:
    """A row of maps for each kind of cosines, or a single reading's kinds in one row."""
    rows = [
        [answer for answer in own if answer.drawing is not None]
        for kind in COSINES
        for own in _answers([family], said, partial(_codes, kind=kind))
    ]
    rows = [own for own in rows if own]
    if rows and all(len(own) == 1 for own in rows):
        return [[answer for own in rows for answer in own]]
    return rows


def _codes(row: Row, kind: str) -> Answer:
    cosines = row["code_cosines" if kind == "raw" else "projected_cosines"]
    if cosines is None:
        return Answer("")
    names = ["/".join(map(str, codes)) for codes in row["codes"]]
    drawing = _map(cosines, row["words"], f"{COSINES[kind]} for the words of {row['caption']}", names)
    told = f"{COSINES[kind]}, {number(len(set(names)))} codes for {number(len(names))} words"
    off = ~np.eye(len(names), dtype=bool)
    if off.any():
        error = (np.array(row["word_cosines"])[off] - np.array(cosines)[off]) ** 2
        told += f"; MSE {number(float(error.mean()), 3)}"
    return Answer("", drawing=drawing, note=told)
