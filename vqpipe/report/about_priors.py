"""The priors: bits and the unigram entropy, distances with floor and ceiling, samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from vqpipe.artifacts.intact import read_intact
from vqpipe.artifacts.publish import MANIFEST
from vqpipe.artifacts.specs.prior import NEAREST, SAMPLES
from vqpipe.artifacts.tables import read_table
from vqpipe.priors.measure import PriorMetrics
from vqpipe.report.about_data import curve_charts
from vqpipe.report.blocks import Absent, Block, Cell, Column, Gallery, Section, Table
from vqpipe.report.inputs import Inputs, ReportParams
from vqpipe.report.names import BOTH, DISTANCES, HIGHER, LOWER, NOT_MEASURED, cell, column, counted, number
from vqpipe.report.pictures import decode_png, picture

ROWS = {
    "samples": "{pair}",
    "unigram_samples": "floor: codes by frequency, {pair}",
    "reconstructions": "ceiling: reconstructions, {pair}",
}


def about_priors(inputs: Inputs, params: ReportParams) -> Section:
    """The section `Priors`."""
    blocks: list[Block] = []
    if inputs.prior:
        blocks += _tables(inputs)
    else:
        blocks.append(Absent("Measures are absent: no prior has been trained. Run: dvc repro prior"))
    curves = inputs.curves.get("prior", {})
    drawn: list[Block] = (
        [curve_charts("Training curves", curves)]
        if curves
        else [Absent("Training curves are absent. Run: dvc repro prior")]
    )
    parts = [
        Section("prior-curves", "Training", drawn),
        Section("samples", "Samples", _samples(inputs, params)),
        Section("nearest", "Nearest training images", _nearest(inputs, params)),
    ]
    return Section("priors", "Priors", blocks, parts)


def _tables(inputs: Inputs) -> list[Block]:
    prior = inputs.prior
    tables: list[Block] = [
        _bits(prior, inputs.dataset.images.get("test") if inputs.dataset is not None else None)
    ]
    reasons = dict.fromkeys(
        m.samples.not_measured for m in prior.values() if m.samples.not_measured is not None
    )
    tables += [Absent(f"Distances of samples are left out: {reason}.") for reason in reasons]
    names = [name for name in DISTANCES if any(getattr(m.samples, name) is not None for m in prior.values())]
    if names:
        tables.append(_distances(prior, names))
    tables.append(_memorisation(prior))
    tables.append(_runs(inputs))
    return tables


def _bits(prior: Mapping[str, PriorMetrics], num_images: int | None) -> Table:
    columns = [
        Column("prior", numeric=False),
        Column("bits per token", "test", LOWER),
        Column("unigram", "bits per token"),
        Column("saved", "%", HIGHER),
        Column("fixed length", "bits per token"),
        Column("bits per image", "test", LOWER),
        Column("unigram", "bits per image"),
        Column("validation", "bits per token"),
        Column("train", "bits per token"),
    ]
    rows = []
    for pair, metrics in prior.items():
        own, floor = metrics.bits_per_token, metrics.unigram_bits_per_token
        saved = Cell(number(100 * (1 - own / floor), 1)) if own is not None and floor else Cell("–")
        rows.append(
            [
                Cell(pair),
                cell("bits_per_token", own),
                cell("bits_per_token", floor),
                saved,
                cell("bits_per_token", metrics.fixed_length_bits_per_token),
                cell("bits_per_image", metrics.bits_per_image),
                cell("bits_per_image", metrics.unigram_bits_per_image),
                cell(
                    "bits_per_token",
                    metrics.validation.bits_per_token if metrics.validation is not None else None,
                ),
                cell("bits_per_token", metrics.train.bits_per_token if metrics.train is not None else None),
            ]
        )
    n = f"n = {counted(num_images, 'test image')}. " if num_images else ""
    note = n + (
        "Cross-entropy of a split's codes under the prior. The unigram floor knows "
        "only how often each code occurs in training; a fixed-length code knows "
        "only K. "
        "Bits per image compare between tokenizers with other K or more groups; "
        "bits per token do not. Train far below validation means overfitting."
    )
    return Table("How well the tokens are predicted", columns, rows, note)


def _distances(prior: Mapping[str, PriorMetrics], names: list[str]) -> Table:
    rows: list[list[Cell]] = []
    quiet: set[int] = set()
    for pair, metrics in prior.items():
        of_kind = {
            "samples": metrics.samples,
            "unigram_samples": metrics.unigram_samples,
            "reconstructions": metrics.reconstructions,
        }
        for kind, label in ROWS.items():
            if kind != "samples":
                quiet.add(len(rows))
            values = (cell(name, getattr(of_kind[kind], name)) for name in names)
            rows.append([Cell(label.format(pair=pair)), Cell(number(metrics.num_samples)), *values])
    columns = [Column("prior", numeric=False), Column("n", "images a side"), *map(column, names)]
    note = (
        "Samples against equally many test images. The floor decodes codes drawn "
        "independently by their training frequencies; the ceiling is the "
        "tokenizer's own "
        "reconstructions of those test images, which no prior over these codes can "
        f"be expected to pass. {BOTH}"
    )
    return Table("Samples, floor and ceiling", columns, rows, note, frozenset(quiet))


def _memorisation(prior: Mapping[str, PriorMetrics]) -> Table:
    columns = [
        Column("prior", numeric=False),
        Column("n", "images"),
        Column("distance to the nearest training image", "grey levels, median"),
        Column("same codes", "%, median"),
        Column("copies", "images with all codes equal"),
    ]
    rows: list[list[Cell]] = []
    quiet: set[int] = set()
    for pair, metrics in prior.items():
        found = metrics.nearest_train
        for label, own in (
            (pair, found.samples),
            (f"reconstructed test images, {pair}", found.reconstructions),
        ):
            if own is found.reconstructions:
                quiet.add(len(rows))
            numbers = (number(found.num_compared), number(own.rmse, 1), number(100 * own.same_codes, 1))
            rows.append([Cell(label), *map(Cell, numbers), Cell(number(own.copies))])
    note = (
        "Samples that are much nearer to training images than reconstructed test images are would be copies."
    )
    return Table("Memorisation", columns, rows, note, frozenset(quiet))


def _runs(inputs: Inputs) -> Table:
    columns = [
        Column("prior", numeric=False),
        Column("condition", numeric=False),
        Column("steps"),
        Column("rollbacks"),
        Column("weights", numeric=False),
        Column("parameters", "million"),
        Column("sampling", "tokens per second"),
    ]
    speeds = {cost.output: cost.further.get("sampled_tokens_per_second") for cost in inputs.costs}
    rows = []
    for pair, metrics in inputs.prior.items():
        speed = speeds.get(f"prior/{pair}")
        rows.append(
            [
                Cell(pair),
                Cell(str(metrics.condition)),
                cell("", metrics.num_steps),
                cell("", metrics.num_rollbacks),
                Cell(metrics.weights),
                Cell(number(metrics.num_parameters / 1e6, 2)),
                Cell(NOT_MEASURED if speed is None else number(speed, 0)),
            ]
        )
    return Table("Training runs", columns, rows)


def _published(inputs: Inputs) -> Iterator[tuple[str, Path]]:
    for pair in inputs.pairs:
        folder = inputs.folder("prior", pair)
        if (folder / MANIFEST).is_file():
            yield pair, folder


def _samples(inputs: Inputs, params: ReportParams) -> list[Block]:
    blocks: list[Block] = []
    for pair, folder in _published(inputs):
        rows = (
            read_table(folder / "samples.parquet", SAMPLES, ["image", "label_name"])
            .slice(0, params.num_samples)
            .to_pylist()
        )
        pictures = []
        for i, row in enumerate(rows):
            asked = f", asked for {row['label_name']}" if row["label_name"] else ""
            pictures.append(
                picture(
                    decode_png(
                        row["image"],
                        params.max_picture_pixels,
                        f"{folder / 'samples.parquet'}: sample {i + 1}",
                        "prior",
                    ),
                    f"sample {i + 1} of {pair}{asked}",
                    row["label_name"] or "",
                )
            )
        path = folder / "unigram.png"
        unigram = decode_png(read_intact(path), 4 * params.max_picture_pixels, str(path), "prior")
        floor = picture(unigram, f"samples of the unigram floor of {pair}")
        blocks.append(
            Gallery(f"{pair}: the first {counted(len(pictures), 'sample')}, not picked", [("", pictures)])
        )
        blocks.append(
            Gallery(
                f"{pair}: the floor",
                [("", [floor])],
                "Codes drawn independently, each as often as in training: what a prior must beat.",
            )
        )
    return blocks or [
        Absent("Samples are absent: no prior in this checkout. Run: dvc pull, or dvc repro prior")
    ]


def _nearest(inputs: Inputs, params: ReportParams) -> list[Block]:
    blocks: list[Block] = []
    for pair, folder in _published(inputs):
        groups = []
        for i, row in enumerate(
            read_table(folder / "nearest.parquet", NEAREST).slice(0, params.num_samples).to_pylist()
        ):
            where = f"{folder / 'nearest.parquet'}: sample {i + 1}"
            sample, train = (
                decode_png(row[name], params.max_picture_pixels, where, "prior")
                for name in ("sample", "train")
            )
            groups.append(
                (
                    "",
                    [
                        picture(sample, f"sample {i + 1} of {pair}", "sample"),
                        picture(
                            train,
                            f"training image {row['train_id']}, the nearest to sample {i + 1}",
                            f"{row['train_id']}: {number(row['rmse'], 1)} levels, "
                            f"{row['same_codes']:.0%} same codes",
                        ),
                    ],
                )
            )
        note = (
            "Each sample and the training image that is nearest in pixels (root "
            "mean squared difference in grey levels), and the largest part of codes "
            "in the same place that any training image shares. A model that copies "
            "shows pairs of equal pictures."
        )
        blocks.append(Gallery(pair, groups, note if not blocks else "", compact=True))
    return blocks or [
        Absent(
            "Nearest training images are absent: no prior in this checkout. Run: dvc pull, or dvc repro prior"
        )
    ]
