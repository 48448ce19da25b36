"""Reconstructions with their errors, and the patches that codes stand for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from vqpipe.artifacts.publish import MANIFEST
from vqpipe.artifacts.specs.evaluation import EXAMPLES, WORDS
from vqpipe.artifacts.tables import read_table
from vqpipe.params.report import ReportParams
from vqpipe.report.blocks import Absent, Block, Gallery, Picture
from vqpipe.report.inputs import Inputs
from vqpipe.report.names import number
from vqpipe.report.pictures import decode_png, heat_map, heat_scale, mean_error, picture

KINDS = {
    "random": "Drawn at random",
    "hard": "Hard: where the mean colour of each cell says least",
    "typical": "Typical",
    "easy": "Easy: where the mean colour of each cell says most",
    "worst": "The worst of each tokenizer",
}


def evaluations(inputs: Inputs) -> Iterator[tuple[str, Path]]:
    """The variants of the params file whose evaluation is there, with its folder."""
    for variant in inputs.variants:
        folder = inputs.folder("evaluation", variant)
        if (folder / MANIFEST).is_file():
            yield variant, folder


def book_name(variant: str, group: str, numbook_names: int) -> str:
    """A codebook's name: the variant's, with the group (such as adjective) where there are several."""
    return variant if numbook_names == 1 else f"{variant}, {group}"


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
                "The original, then each tokenizer's reconstruction with its error beside it: the "
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
                groups.append((f"{name}: {number(row['count'])} times", patches))
            note = "The most used codes, each with cells of test images, drawn at random, that it stands for."
            blocks.append(
                Gallery(
                    book_name(variant, group, len(by_group)), groups, note if not blocks else "", compact=True
                )
            )
    return blocks or [
        Absent("The codes' patches are absent: no evaluation in this checkout. Run: dvc repro evaluate")
    ]
