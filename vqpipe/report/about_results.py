"""What came out, on the first screen: the best of each, the tokenizers and priors side by side, and their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vqpipe.artifacts.specs.evaluation import EXAMPLES
from vqpipe.artifacts.specs.prior import SAMPLES
from vqpipe.artifacts.tables import read_table
from vqpipe.evaluation.measure import EvaluationMetrics
from vqpipe.priors.measure import PriorMetrics
from vqpipe.report.about_priors import condition_name, published
from vqpipe.report.about_reconstructions import book_name, evaluations
from vqpipe.report.about_tokenizers import FLOORS
from vqpipe.report.blocks import Absent, Block, Cell, Column, Gallery, Picture, Section, Table, Text
from vqpipe.report.inputs import Inputs, ReportParams
from vqpipe.report.names import BOTH, MEASURES, cell, column, counted, measure, number
from vqpipe.report.pictures import decode_png, picture

PER_IMAGE = ("psnr", "lpips_alex", "lpips_vgg", "clip_distance")
SETS = ("fid", "fd_clip")
"""Distances between sets of images, the one that papers report first; the first that was measured is shown."""
ASKED = ("class_accuracy", "mean_iou", "clip_similarity")
"""What of an agreement with the condition is shown: the one that was measured."""
COLUMNS = 6
"""Images in a row: as many as a window of 900 pixels has side by side."""


def about_results(inputs: Inputs, params: ReportParams) -> Section:
    """The section `Results`."""
    blocks: list[Block] = []
    if inputs.evaluate:
        blocks.append(_best_tokenizer(inputs.evaluate))
    blocks += _best_prior(inputs.prior)
    if inputs.evaluate:
        blocks.append(_tokenizers(inputs.evaluate))
    else:
        blocks.append(Absent("No tokenizer has been evaluated. Run: dvc repro evaluate"))
    made = list(_reconstructions(inputs, params))
    if made:
        note = "The same test images, drawn at random, as each tokenizer decodes its codes for them, with the PSNR."
        blocks.append(Gallery("Reconstructions", made, note, dense=True, even=True))
    if inputs.prior:
        blocks.append(_priors(inputs))
    samples = list(_samples(inputs, params))
    if samples:
        note = f"The first {COLUMNS} of each prior, not picked; what each was asked for is under Samples."
        blocks.append(Gallery("Samples", samples, note, dense=True, even=True))
    return Section("results", "Results", blocks)


def _best_tokenizer(evaluate: Mapping[str, EvaluationMetrics]) -> Text:
    """Which tokenizer has the highest PSNR, next to the second, and what a tokenizer without training reaches."""
    order = sorted(evaluate, key=lambda name: -evaluate[name].psnr.mean)
    best = evaluate[order[0]]
    told = f"{order[0]} reconstructs best by PSNR: {_db(best)} at {number(best.bits_per_image, 0)} bits per image"
    if len(order) > 1:
        second = evaluate[order[1]]
        told += f"; next is {order[1]} with {_db(second)} at {number(second.bits_per_image, 0)} bits"
    floors = {name: found for name, found in best.floors or () if getattr(found, "psnr", None) is not None}
    if floors:
        name = max(floors, key=lambda name: floors[name].psnr.mean)
        label, floor = FLOORS[name].removeprefix("floor: "), floors[name]
        told += f". Without a network, {label} reaches {number(floor.psnr.mean, 2)} dB at "
        told += f"{number(floor.bits_per_image, 0)} bits"
    count, split = counted(best.protocol.num_images, "image"), best.protocol.split
    told += f". One training of each, measured on {count} of the {split} split; the range is over images"
    return Text(f"{told}, and another seed may move a mean by more.", [("All measures", "tokenizers")])


def _db(metrics: EvaluationMetrics) -> str:
    psnr = metrics.psnr
    return f"{number(psnr.mean, 2)} dB ({number(psnr.low, 2)} to {number(psnr.high, 2)})"


def _tokenizers(evaluate: Mapping[str, EvaluationMetrics]) -> Table:
    names = [
        name
        for name in (*PER_IMAGE, *SETS)
        if any(getattr(metrics, name, None) is not None for metrics in evaluate.values())
    ]
    distances = [name for name in names if name in SETS]
    names = [name for name in names if name not in distances[1:]]
    rows = []
    for variant, metrics in evaluate.items():
        books = metrics.codes.items()
        sizes = " and ".join(number(book.num_codes) for _, book in books)
        used = Cell(
            " and ".join(cell("utilisation", book.utilisation).text for _, book in books),
            ", ".join(
                book_name("", group, len(books)).removeprefix(", ") for group, _ in books if len(books) > 1
            ),
        )
        values = (cell(name, getattr(metrics, name, None)) for name in names)
        bits = cell("bits_per_image", metrics.bits_per_image)
        rows.append([Cell(variant), *values, used, Cell(sizes), bits])
    columns = [*map(column, names), column("utilisation"), column("num_codes"), column("bits_per_image")]
    return Table("Tokenizers", [Column("tokenizer", numeric=False), *columns], rows, BOTH)


def _reconstructions(inputs: Inputs, params: ReportParams) -> Iterator[tuple[str, list[Picture]]]:
    """A row of originals, and one for each tokenizer."""
    count = min(COLUMNS, params.num_reconstructions)
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for variant, folder in evaluations(inputs):
        file = folder / "examples.parquet"
        drawn = [row for row in read_table(file, EXAMPLES).to_pylist() if row["kind"] == "random"]
        rows[variant] = {row["image_id"]: row | {"file": file} for row in drawn}
    shared = [i for i in next(iter(rows.values()), {}) if all(i in own for own in rows.values())][:count]
    if not shared:
        return

    def shown(row: Mapping[str, Any], name: str, alt: str, caption: str = "") -> Picture:
        where = f"{row['file']}: image {row['image_id']}"
        return picture(decode_png(row[name], params.max_picture_pixels, where, "evaluate"), alt, caption)

    first = next(iter(rows.values()))
    yield "original", [shown(first[i], "original", f"image {i}, original") for i in shared]
    for variant, own in rows.items():
        psnrs = [f"{number(own[i]['psnr'], 2)} dB" for i in shared]
        alts = [
            f"image {i} as {variant} reconstructs it, PSNR {psnr}"
            for i, psnr in zip(shared, psnrs, strict=True)
        ]
        yield (
            variant,
            [
                shown(own[i], "reconstruction", alt, psnr)
                for i, alt, psnr in zip(shared, alts, psnrs, strict=True)
            ],
        )


def _distance(prior: Mapping[str, PriorMetrics]) -> str | None:
    """The distance of samples that is shown."""
    return next((n for n in SETS if any(getattr(m.samples, n) is not None for m in prior.values())), None)


def _best_prior(prior: Mapping[str, PriorMetrics]) -> Iterator[Text]:
    """Which prior's samples are nearest to test images, next to real images and to codes drawn by frequency."""
    name = _distance(prior)
    measured = {
        pair: m for pair, m in prior.items() if name is not None and getattr(m.samples, name) is not None
    }
    if name is None or not measured:
        return
    pair = min(measured, key=lambda pair: getattr(measured[pair].samples, name))
    own, label = measured[pair], measure(name).label

    def of(found: object) -> str:
        return cell(name, getattr(found, name, None)).text

    others = (
        [f"{of(own.unigram_samples)} for codes drawn by their frequencies"] if own.unigram_samples else []
    )
    others += (
        [f"{of(own.reconstructions)} for the tokenizer's own reconstructions"] if own.reconstructions else []
    )
    others += [f"{of(own.train_images)} for random training images"] if own.train_images else []
    told = f"{pair} (condition: {condition_name(own)}) has the lowest {label} of samples, {of(own.samples)}"
    if others:
        told += f"; it is {', '.join(others[:-1])}{' and ' if others[1:] else ''}{others[-1]}"
    count = counted(own.num_samples, "sample")
    yield Text(
        f"{told}. {count} of one training; the distance has no interval.", [("All measures", "priors")]
    )


def _priors(inputs: Inputs) -> Table:
    prior, name = inputs.prior, _distance(inputs.prior)
    columns = [Column("prior", numeric=False), Column("condition", numeric=False)]
    rows = [[Cell(pair), Cell(condition_name(metrics))] for pair, metrics in prior.items()]
    if name is not None:
        found = column(name)
        columns += [found, Column(found.name, "floor: codes by frequency", found.note)]
        for row, metrics in zip(rows, prior.values(), strict=True):
            row += [
                cell(name, getattr(own, name, None)) for own in (metrics.samples, metrics.unigram_samples)
            ]
    asked = [_asked(metrics) for metrics in prior.values()]
    if any(asked):
        columns.append(Column("as asked", "by a judge or CLIP", MEASURES[ASKED[0]].better))
        columns += [Column("chance", "another condition"), Column("real images", "ceiling")]
        rows = [[*row, *(own or [Cell("–")] * 3)] for row, own in zip(rows, asked, strict=True)]
    return Table("Priors", columns, rows, BOTH)


def _asked(metrics: PriorMetrics) -> list[Cell]:
    """How well samples agree with their condition and by which measure, what chance gives and real images reach; empty
    where it was not judged."""
    found = metrics.agreement
    name = next((n for n in ASKED if getattr(getattr(found, "samples", None), n, None) is not None), None)
    if found is None or name is None:
        return []
    own = measure(name)
    unit = f", {own.unit}" if own.unit else ""
    samples = Cell(cell(name, getattr(found.samples, name)).text, f"{own.label}{unit}")
    others = (found.another_condition, found.test_images)
    return [samples, *(cell(name, getattr(one, name, None)) for one in others)]


def _samples(inputs: Inputs, params: ReportParams) -> Iterator[tuple[str, list[Picture]]]:
    for pair, folder in published(inputs):
        path = folder / "samples.parquet"
        rows = read_table(path, SAMPLES, ["image", "label_name", "caption"]).slice(
            0, min(COLUMNS, params.num_samples)
        )
        pictures = []
        for number_, row in enumerate(rows.to_pylist(), start=1):
            asked = row["caption"] or row["label_name"]
            alt = f"sample {number_} of {pair}" + (f", asked for {asked}" if asked else "")
            where = f"{path}: sample {number_}"
            pictures.append(picture(decode_png(row["image"], params.max_picture_pixels, where, "prior"), alt))
        if pictures:
            yield pair, pictures
