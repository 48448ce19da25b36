"""What the tokenizers make of the same images, what their codes look like, and images with replaced tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from vqpipe.artifacts.publish import MANIFEST, read_manifest
from vqpipe.artifacts.specs.evaluation import EVALUATION, EXAMPLES, REPLACED, USAGE, WORDS
from vqpipe.artifacts.tables import read_table
from vqpipe.errors import counted
from vqpipe.metrics.measured import Interval
from vqpipe.report.blocks import Absent, Block, Cell, Column, Gallery, Picture, Table, Text
from vqpipe.report.inputs import Inputs, ReportParams
from vqpipe.report.names import HIGHER, number
from vqpipe.report.pictures import decode_png, heat_map, heat_scale, mean_error, picture

KINDS = {
    "random": "Drawn at random",
    "hard": "Hard: where the mean colour of each cell reconstructs worst",
    "typical": "Typical",
    "easy": "Easy: where the mean colour of each cell reconstructs best",
    "worst": "The worst of each tokenizer",
}


def evaluations(inputs: Inputs) -> Iterator[tuple[str, Path]]:
    """The variants of the params file whose evaluation is there, with its folder."""
    for variant in inputs.variants:
        folder = inputs.folder("evaluation", variant)
        if (folder / MANIFEST).is_file():
            yield variant, folder


def book_name(variant: str, group: str, num_groups: int) -> str:
    """A codebook's name: the variant's, with the group (such as adjective) where there are several."""
    return variant if num_groups == 1 else f"{variant}, {group}"


def reconstructions(inputs: Inputs, params: ReportParams) -> list[Block]:
    """Galleries of originals, reconstructions and error maps, one for each kind of example."""
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for variant, folder in evaluations(inputs):
        taken: dict[str, int] = defaultdict(int)
        for row in read_table(folder / "examples.parquet", EXAMPLES).to_pylist():
            if taken[row["kind"]] < params.num_reconstructions:
                taken[row["kind"]] += 1
                rows[row["kind"], row["image_id"]][variant] = row | {"file": folder / "examples.parquet"}
    if not rows:
        return [Absent("Reconstructions are absent: no evaluation in this checkout. Run: dvc repro evaluate")]
    top = params.error_levels
    scale = Markup(
        '<p class="scale">error 0<span style="background:{}"></span>{} grey levels and more</p>'
    ).format(heat_scale(), number(top))
    blocks: list[Block] = []
    for kind, title in KINDS.items():
        groups = [
            (image_id, list(_compared(image_id, by_variant, params)))
            for (k, image_id), by_variant in rows.items()
            if k == kind
        ]
        if groups:
            note = (
                "The original, then each tokenizer's reconstruction with its error next to it: the "
                "absolute difference averaged over colours."
            )
            blocks.append(Gallery(title, groups, note if not blocks else "", scale))
    return blocks


def _compared(
    image_id: str, by_variant: Mapping[str, Mapping[str, Any]], params: ReportParams
) -> Iterator[Picture]:
    side = params.max_picture_pixels

    def decoded(row: Mapping[str, Any], name: str) -> UInt8[np.ndarray, "h w 3"]:
        return decode_png(row[name], side, f"{row['file']}: image {image_id}", "evaluate")

    original = decoded(next(iter(by_variant.values())), "original")
    yield picture(original, f"image {image_id}, original", "original")
    for variant, row in by_variant.items():
        made = decoded(row, "reconstruction")
        error = mean_error(original, made)
        psnr = number(row["psnr"], 2)
        yield picture(
            made, f"image {image_id} as {variant} reconstructs it, PSNR {psnr} dB", f"{variant}: {psnr} dB"
        )
        mean = number(float(error.mean()), 1)
        yield picture(
            heat_map(error, params.error_levels),
            f"error of {variant} on image {image_id}, {mean} grey levels on average",
            f"error, mean {mean}",
        )


def code_words(inputs: Inputs, params: ReportParams) -> list[Block]:
    """Galleries of the most used codes, each with patches of test images."""
    blocks: list[Block] = []
    for variant, folder in evaluations(inputs):
        by_group: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in read_table(folder / "words.parquet", WORDS).to_pylist():
            by_group[row["group"]].append(row)
        for group, found in by_group.items():
            groups = []
            for row in found[: params.num_code_words]:
                name = row["name"] or f"code {row['code']}"
                where = f"{folder / 'words.parquet'}: {name}"
                patches = [
                    picture(
                        decode_png(patch, params.max_picture_pixels, where, "evaluate"),
                        f"patch {i + 1} coded as {name}",
                    )
                    for i, patch in enumerate(row["patches"])
                ]
                groups.append((f"{name}: {counted(row['count'], 'time')}", patches))
            note = "The most used codes, each with cells of test images, drawn at random, that it encodes."
            blocks.append(
                Gallery(
                    book_name(variant, group, len(by_group)), groups, note if not blocks else "", compact=True
                )
            )
    return blocks or [
        Absent("The codes' patches are absent: no evaluation in this checkout. Run: dvc repro evaluate")
    ]


@dataclass(frozen=True)
class Book:
    """One codebook of one evaluated tokenizer; `index` is its group's number. `counts`: uses over the
    split; `norms`: |e_k|; `places` in t-SNE, NaN where a code has none, `no_map` says why none has."""

    variant: str
    group: str
    index: int
    label: str
    folder: Path
    counts: np.ndarray
    norms: np.ndarray
    places: np.ndarray
    no_map: str | None


def read_books(inputs: Inputs) -> list[Book]:
    """Every codebook of every evaluation that is there, variants in the order of the params, groups in their own.

    Raises:
        ArtifactError: an evaluation that is damaged or of another version.
    """
    books = []
    for variant, folder in evaluations(inputs):
        table = read_table(folder / "usage.parquet", USAGE, ["group", "count", "norm", "map_x", "map_y"])
        absent = read_manifest(folder, EVALUATION).facts.get("map", {})
        belongs = np.array(table["group"].to_pylist(), dtype=object)
        counts, norms, x, y = (table[name].to_numpy() for name in ("count", "norm", "map_x", "map_y"))
        places = np.stack([x.astype(np.float64), y.astype(np.float64)], axis=1)
        groups = list(dict.fromkeys(belongs.tolist()))
        for index, group in enumerate(groups):
            own, label = belongs == group, book_name(variant, group, len(groups))
            arrays = (counts[own].astype(np.int64), norms[own].astype(np.float64), places[own])
            books.append(Book(variant, group, index, label, folder, *arrays, absent.get(group)))
    return books


FILE = "replaced.parquet"


@dataclass(frozen=True)
class Found:
    """One tokenizer's rows, its sizes of codebooks, and the ranks that it does not have."""

    file: Path
    rows: list[dict[str, Any]]
    num_codes: list[int]
    left_out: list[int]


def replaced(inputs: Inputs, params: ReportParams) -> list[Block]:
    """A table of PSNR by rank, and for each image a row of pictures per tokenizer (VQGAN-LC, figure 5)."""
    found = {variant: _read(folder) for variant, folder in evaluations(inputs) if (folder / FILE).is_file()}
    if not found:
        return [Absent("Replaced tokens are absent: evaluate.examples.replaced in the params asks for none.")]
    text = Text(
        "Every token becomes the n-th nearest other code of its codebook, and the image is decoded (VQGAN-LC, figure "
        "5). Where many codes are in use and near ones decode alike, little changes; where few are, the image "
        "degrades. The n-th nearest of a small codebook is farther away than that of a large one, so compare n with K."
    )
    blocks: list[Block] = [text, _numbers(inputs, found)]
    by_image: dict[str, dict[str, Mapping[str, Any]]] = {}
    for variant, own in found.items():
        for row in own.rows[: params.num_reconstructions]:
            by_image.setdefault(row["image_id"], {})[variant] = row
    note = (
        "The original and its reconstruction; the same with every token replaced; and with another image's tokens in "
        "the middle, which shows how far a token reaches. Captions: the PSNR against the original, and how many tokens "
        "changed."
    )
    for image_id, by_variant in by_image.items():
        groups = [
            (variant, list(_shown(variant, row, found[variant].file, params.max_picture_pixels)))
            for variant, row in by_variant.items()
        ]
        blocks.append(Gallery(image_id, groups, note, even=True))
        note = ""
    return blocks


def _read(folder: Path) -> Found:
    facts = read_manifest(folder, EVALUATION).facts
    rows = read_table(folder / FILE, REPLACED).to_pylist()
    return Found(folder / FILE, rows, facts["num_codes"], facts.get("ranks_left_out", []))


def _numbers(inputs: Inputs, found: Mapping[str, Found]) -> Table:
    """PSNR by rank, a row for each tokenizer: means over its rows, intervals where the metrics have them."""
    ranks = sorted({rank for own in found.values() for row in own.rows for rank in row["ranks"]})
    columns = [Column("tokenizer", numeric=False), Column("K"), Column("reconstruction", "dB", HIGHER)]
    columns += [Column(ordinal(rank), "dB", HIGHER) for rank in ranks]
    rows, lacking = [], []
    for variant, own in found.items():
        evaluated = inputs.evaluate.get(variant)
        measured = evaluated.replaced if evaluated is not None else None
        values: dict[int, list[float]] = {0: [row["psnr"] for row in own.rows]}
        for row in own.rows:
            for rank, psnr in zip(row["ranks"], row["psnrs"], strict=True):
                values.setdefault(rank, []).append(psnr)
        cells = [_cell(values.get(rank), measured.psnr(rank) if measured else None) for rank in (0, *ranks)]
        rows.append([Cell(variant), Cell(", ".join(number(k) for k in own.num_codes)), *cells])
        if own.left_out:
            lacking.append(f"{variant} has no {', '.join(ordinal(rank) for rank in own.left_out)} code")
    counts = sorted({len(own.rows) for own in found.values()})
    note = (
        f"PSNR of n = {' or '.join(number(count) for count in counts)} test images drawn at random, with the "
        "95 % bootstrap interval. Columns: the code that replaced every token, counted from the nearest."
    )
    if lacking:
        note += f" Left out: {'; '.join(lacking)}."
    return Table("PSNR after every token was replaced", columns, rows, note)


def _cell(values: list[float] | None, interval: Interval | None) -> Cell:
    if not values:
        return Cell("–")
    small = f"{number(interval.low, 2)} to {number(interval.high, 2)}" if interval else ""
    return Cell(number(float(np.mean(values)), 2), small)


def _shown(variant: str, row: Mapping[str, Any], file: Path, side: int) -> Iterator[Picture]:
    image_id, tokens = row["image_id"], number(row["tokens"])

    def decoded(png: bytes) -> UInt8[np.ndarray, "h w 3"]:
        return decode_png(png, side, f"{file}: image {image_id}", "evaluate")

    yield picture(decoded(row["original"]), f"image {image_id}, original", "original")
    plain = number(row["psnr"], 2)
    yield picture(
        decoded(row["reconstruction"]),
        f"image {image_id} as {variant} reconstructs it, PSNR {plain} dB",
        f"reconstruction: {plain} dB",
    )
    for rank, png, psnr, changed in zip(
        row["ranks"], row["pictures"], row["psnrs"], row["changed"], strict=True
    ):
        what = f"{ordinal(rank)} code: {number(psnr, 2)} dB, {number(changed)} of {tokens} tokens"
        yield picture(decoded(png), f"image {image_id} as {variant}: {what}", what)
    if row["mixed"] is not None:
        what = f"middle from {row['other_id']}: {number(row['mixed_changed'])} of {tokens} tokens"
        yield picture(decoded(row["mixed"]), f"image {image_id} as {variant}: {what}", what)


def ordinal(rank: int) -> str:
    """A rank in words, as in `the nearest code` and `2nd nearest code`."""
    if rank == 1:
        return "nearest"
    teen = rank % 100 in (11, 12, 13)
    ending = "th" if teen else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{number(rank)}{ending} nearest"
