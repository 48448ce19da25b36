"""What heads on frozen codes predict: the numbers next to chance, and examples of single images."""

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
from vqpipe.report.about_data import curve_charts
from vqpipe.report.about_health import similarity_map
from vqpipe.report.blocks import (
    Absent,
    Answer,
    Block,
    Cell,
    Column,
    Example,
    Examples,
    Line,
    Picture,
    Section,
    Table,
    Terms,
    Text,
)
from vqpipe.report.inputs import Inputs
from vqpipe.report.names import BOTH, HIGHER, MEASURES, cell, column, number
from vqpipe.report.pictures import decode_png, picture, scale_bar, signed_scale
from vqpipe.report.task_pairs import COSINES, DIRECTIONS, RANKS, Reading, alignment, families, read_readings

HEADS = (Column("reading", numeric=False), Column("heads", numeric=False))
TERMS = (
    "masked_recall", "masked_other_image", "masked_gain", *RANKS, "similarity_mse", "correlation", "same_position",
)  # fmt: skip


def about_reading(inputs: Inputs, params: ReportParams) -> Section:
    """The section `What the codes say`.

    Raises:
        ParamsError: params of a reading that do not fit the stage.
        ArtifactError: a reading that is damaged or of another version.
    """
    if not inputs.readings:
        told = "Nothing has been read from the codes: the params name no reading under read.variants."
        return Section("reading", "What the codes say", [Absent(told)])
    readings = read_readings(inputs)
    if not readings:
        told = (
            "What the codes say is absent: no tokenizer has been read in this checkout. Run: dvc repro read"
        )
        return Section("reading", "What the codes say", [Absent(told)])
    blocks: list[Block] = [*_words(readings), _terms(readings)]
    missing = [name for name in inputs.readings if name not in inputs.read]
    if missing:
        blocks.append(Absent(f"Not read in this checkout: {', '.join(missing)}. Run: dvc repro read"))
    away = [reading.label for reading in readings if not reading.has_tables]
    if away:
        told = "Pictures and differences are absent in this checkout for"
        blocks.append(Absent(f"{told} {', '.join(away)}. Run: dvc pull, or dvc repro read"))
    shown = families(readings)
    parts = [
        Section("reading-alignment", "What alignment bought", alignment(readings)),
        Section("reading-masked", "Masked words", [*_masked(readings), *masked_words(shown, params)]),
        Section("reading-retrieval", "Retrieval", [*_retrieval(readings), *retrieval(shown, params)]),
        Section("reading-similarity", "Words and codes", [*_similarity(readings), *relations(shown, params)]),
        Section("reading-training", "The heads' training", _training(inputs, readings)),
    ]
    return Section("reading", "What the codes say", blocks, parts)


def _words(readings: Sequence[Reading]) -> list[Block]:
    counts = {reading.label: reading.metrics["protocol"]["num_images"] for reading in readings}
    if len(set(counts.values())) == 1:
        images = f"n = {number(next(iter(counts.values())))} images, the same ones for each reading"
    else:
        images = f"n images: {', '.join(f'{number(n)} for {label}' for label, n in counts.items())}"
    return [
        Text(
            "How much of a caption can be read from an image's codes: words that are masked in it, which caption "
            "belongs to which image, and whether codes relate to one another as words do."
        ),
        Text(
            "Fresh heads are trained on a tokenizer's frozen codes, in the same way for each: they tell what its codes "
            "hold, and are what aligned and plain tokenizers are compared by. Own heads were trained together with an "
            "aligned tokenizer: they tell what the two make of an image together. Plain tokenizers have none."
        ),
        Text(
            f"Measured on the {readings[0].metrics['protocol']['split']} split, one caption of each image, {images}. "
            "Small print is the 95 % bootstrap interval over images "
            f"({number(readings[0].config.num_bootstrap)} resamples); another training may differ by more."
        ),
    ]  # fmt: skip


def _terms(readings: Sequence[Reading]) -> Terms:
    return Terms("What each measure says", [(MEASURES[name].label, MEASURES[name].about) for name in TERMS])


def _found(readings: Sequence[Reading], part: str) -> list[tuple[Reading, str, Mapping[str, Any]]]:
    """Each reading and reader that measured a part, with what was found."""
    return [
        (reading, reader, reading.metrics[reader][part])
        for reading in readings
        for reader in reading.readers
        if part in reading.metrics[reader]
    ]


def _head(reading: Reading, reader: str) -> list[Cell]:
    return [Cell(reading.label), Cell(reader)]


def references(
    found: Sequence[tuple[Reading, str, Mapping[str, Any]]],
    label: str,
    values: Sequence[tuple[str, str]],
    width: int,
) -> list[list[Cell]]:
    """Quiet rows of a reference; `values`: the first columns' measures and their names in what was found.

    One row where it is the same for all, else one for each distinct value with the readings it belongs to.
    """
    distinct: dict[tuple[str, ...], tuple[list[Cell], list[str]]] = {}
    for reading, _, part in found:
        cells = [cell(name, part[key]) if key in part else Cell("") for name, key in values]
        own = distinct.setdefault(tuple(item.text for item in cells), (cells, []))[1]
        if reading.label not in own:
            own.append(reading.label)
    return [
        [Cell(label if len(distinct) == 1 else f"{label} ({', '.join(names)})"), Cell(""), *cells]
        + [Cell("")] * (width - len(cells))
        for cells, names in distinct.values()
    ]


def masked_parts(readings: Sequence[Reading]) -> list[tuple[str, str]]:
    """The masked counts that were measured, as the part's name in the metrics and its title."""
    counts = sorted({count for reading in readings for count in reading.config.masked_counts})
    return [
        (f"masked_{count}", "One masked word" if count == 1 else f"{number(count)} masked words")
        for count in counts
        if _found(readings, f"masked_{count}")
    ]


def _masked(readings: Sequence[Reading]) -> list[Block]:
    blocks: list[Block] = []
    for part, title in masked_parts(readings):
        found = _found(readings, part)
        rows = []
        for reading, reader, values in found:
            gain = reading.gain(reader, part)
            rows.append(
                [
                    *_head(reading, reader),
                    cell("masked_recall", values["recall"]),
                    cell("masked_other_image", values["other_image"]),
                    cell("masked_gain", reading.interval(gain) if gain else None),
                    Cell(number(values["num_captions"])),
                ]
            )
        quiet = len(rows)
        rows += references(
            found, "the training captions' commonest word", [("masked_recall", "commonest")], 4
        )
        rows += references(found, "chance: a word drawn evenly", [("masked_recall", "chance")], 4)
        names = ("masked_recall", "masked_other_image", "masked_gain")
        short = sorted({values["num_left_out"] for _, _, values in found if values["num_left_out"]})
        left = f" Captions with fewer words are left out: {', '.join(map(number, short))}." if short else ""
        note = f"Where the codes' part is not above 0, the words come from the caption alone.{left} {BOTH}"
        columns = [*HEADS, *map(column, names), Column("n", "captions")]
        blocks.append(Table(title, columns, rows, note, frozenset(range(quiet, len(rows)))))
    return blocks or [Absent("Masked words were not measured: no heads for them.")]


def _retrieval(readings: Sequence[Reading]) -> list[Block]:
    both = [
        (reading, reader, reading.metrics[reader])
        for reading in readings
        for reader in reading.readers
        if set(DIRECTIONS) <= reading.metrics[reader].keys()
    ]
    if not both:
        return [Absent("Retrieval was not measured: no heads for it.")]
    rows = [
        [*_head(reading, reader), *(cell(rank, values[way][rank]) for way in DIRECTIONS for rank in RANKS)]
        for reading, reader, values in both
    ]
    quiet = len(rows)
    chances = [
        (reading, reader, {f"{way}.{rank}": values[way][f"chance_{rank}"] for way in DIRECTIONS for rank in RANKS})
        for reading, reader, values in both
    ]  # fmt: skip
    rows += references(
        chances, "chance", [(rank, f"{way}.{rank}") for way in DIRECTIONS for rank in RANKS], 6
    )
    columns = [
        *HEADS,
        *(Column(MEASURES[rank].label, f"%, {said}", HIGHER) for said in DIRECTIONS.values() for rank in RANKS),
    ]  # fmt: skip
    among = {
        way: " or ".join(dict.fromkeys(number(values[way]["num_candidates"]) for _, _, values in both))
        for way in DIRECTIONS
    }
    note = (
        f"By the cosine of the codes' global token and the caption's feature: an image's caption among "
        f"{among['image_to_text']} different ones, a caption's image among {among['text_to_image']}. More candidates "
        f"make it harder, so that chance stands below. {BOTH.split(',')[0]}."
    )  # fmt: skip
    return [Table("Retrieval from codes", columns, rows, note, frozenset(range(quiet, len(rows))))]


def _similarity(readings: Sequence[Reading]) -> list[Block]:
    found = _found(readings, "similarity")
    if not found:
        return [Absent("Words and codes were not compared: no quantizer that was read has code vectors.")]
    blocks: list[Block] = []
    for kind, said in COSINES.items():
        own = [item for item in found if kind in item[2]]
        if not own:
            continue
        rows = [
            [
                *_head(reading, reader),
                cell("similarity_mse", values[kind]["mse"]),
                cell("similarity_chance", values[kind]["chance"]),
                cell("correlation", values[kind].get("correlation")),
                cell("same_position", values["same_position"]),
            ]
            for reading, reader, values in own
        ]
        quiet = len(rows)
        rows += references(own, "one cosine for all, at best", [("similarity_mse", "constant")], 4)
        columns = [
            *HEADS, *map(column, ("similarity_mse", "similarity_chance", "correlation", "same_position")),
        ]  # fmt: skip
        note = (
            "Cosines of the words' frozen vectors and of the codes that the heads assign to them. Codes that learned "
            "the words' relations beat both chance and one cosine for all. Words of one position have a cosine of 1 "
            f"whatever the codes are; a word and its repetition are no pair. {BOTH}"
        )  # fmt: skip
        if kind == "projected":
            note = "The same behind the heads' trained projection, which can make up for what the codes lack."
        title = f"Cosines of words and of {said}"
        blocks.append(Table(title, columns, rows, note, frozenset(range(quiet, len(rows)))))
    return blocks or [Absent("Words and codes were not compared: no caption has two words.")]


def _training(inputs: Inputs, readings: Sequence[Reading]) -> list[Block]:
    columns = [
        Column("reading", numeric=False), Column("heads", numeric=False), Column("steps"),
        Column("images", "per step"), Column("tokenizer's steps"), Column("loss", "at the end"), Column("rollbacks"),
        Column("weights", numeric=False),
    ]  # fmt: skip
    rows = []
    for reading in readings:
        facts = reading.metrics["training"]
        rows.append([
            Cell(reading.label), Cell(reading.metrics["fresh"]["heads"]), Cell(number(facts["num_steps"])),
            Cell(number(facts["batch_size"])), Cell(number(facts["tokenizer_steps"])), Cell(number(facts["loss"], 3)),
            Cell(number(facts["num_rollbacks"])), Cell(facts["weights"]),
        ])  # fmt: skip
    note = "Own heads were trained for their tokenizer's steps; fresh ones compare with them where they had as many."
    table = Table("Training of the fresh heads", columns, rows, note)
    curves = {name: curve for name, curve in inputs.curves.get("read", {}).items() if name in inputs.read}
    if not curves:
        return [table, Absent("The heads' training curves are absent. Run: dvc repro read")]
    return [table, curve_charts("Training curves of the fresh heads", curves, "Losses by optimiser step.")]


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
