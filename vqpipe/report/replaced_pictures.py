"""What becomes of an image when its tokens are exchanged: for near codes of the codebook, or for another image's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.evaluation import EVALUATION, REPLACED
from vqpipe.artifacts.tables import read_table
from vqpipe.params.report import ReportParams
from vqpipe.report.about_reconstructions import evaluations
from vqpipe.report.blocks import Absent, Block, Cell, Column, Gallery, Picture, Table, Text
from vqpipe.report.inputs import Inputs
from vqpipe.report.names import HIGHER, number
from vqpipe.report.pictures import decode_png, picture

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
        "5). Where many codes are in use and near ones mean alike, little changes; where few are, an image falls "
        "apart. The n-th nearest of a small codebook lies farther off than that of a large one, so read n beside K."
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
        measured = inputs.evaluate.get(variant, {}).get("replaced", {})
        values: dict[int, list[float]] = {0: [row["psnr"] for row in own.rows]}
        for row in own.rows:
            for rank, psnr in zip(row["ranks"], row["psnrs"], strict=True):
                values.setdefault(rank, []).append(psnr)
        cells = [_cell(values.get(rank), measured.get(f"psnr_{rank}")) for rank in (0, *ranks)]
        rows.append([Cell(variant), Cell(", ".join(number(k) for k in own.num_codes)), *cells])
        if own.left_out:
            lacking.append(f"{variant} has no {', '.join(ordinal(rank) for rank in own.left_out)} code")
    counts = sorted({len(own.rows) for own in found.values()})
    note = (
        f"PSNR of n = {' or '.join(number(count) for count in counts)} test images drawn at random, with the "
        "95 % bootstrap interval: by which other code, counted from the nearest, every token was replaced."
    )
    if lacking:
        note += f" Left out: {'; '.join(lacking)}."
    return Table("PSNR after every token was replaced", columns, rows, note)


def _cell(values: list[float] | None, interval: Mapping[str, float] | None) -> Cell:
    if not values:
        return Cell("–")
    small = f"{number(interval['low'], 2)} to {number(interval['high'], 2)}" if interval else ""
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
