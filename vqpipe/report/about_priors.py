"""The priors: bits and the unigram entropy, distances with floor and ceiling, samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vqpipe.artifacts.intact import read_intact
from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import MANIFEST, read_manifest
from vqpipe.artifacts.specs.prior import COMPLETIONS, NEAREST, PRIOR, SAMPLES
from vqpipe.artifacts.tables import read_table
from vqpipe.errors import counted
from vqpipe.evaluation.judges_train import JudgesMetrics
from vqpipe.priors.artifact import GRID_COLUMNS
from vqpipe.priors.measure import PriorMetrics
from vqpipe.priors.measure_distances import SampleDistances
from vqpipe.report.about_data import curve_charts
from vqpipe.report.blocks import Absent, Block, Cell, Column, Gallery, Picture, Section, Table
from vqpipe.report.inputs import Inputs, ReportParams
from vqpipe.report.names import (
    BOTH,
    DISTANCES,
    HIGHER,
    LOWER,
    MEASURES,
    NOT_MEASURED,
    cell,
    column,
    measure,
    number,
)
from vqpipe.report.pictures import HIDDEN, decode_labels, decode_png, label_colours, picture, shrunk

SETS = {
    "samples": Column("samples"),
    "unquantised_samples": Column("samples", "not quantised"),
    "unigram_samples": Column("floor", "codes by frequency"),
    "another_condition": Column("chance", "another condition"),
    "another_image": Column("chance", "another image's codes"),
    "reconstructions": Column("ceiling", "reconstructions"),
    "test_images": Column("ceiling", "test images"),
}
"""Columns of the tables that compare sets of images, by their field."""
OF_ALL = "training images"
HOLES = {"lower_half": "lower half", "upper_half": "upper half", "inner_square": "inner square"}
FLOOR_ROWS = 2
"""Rows of the floor's grid that are shown."""
LEGEND = 4
"""Classes of a label map that are named under it, the largest ones."""


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
        Section("samples", "Samples", _samples(inputs, params)),
        Section("completions", "Completions", _completions(inputs, params)),
        Section("nearest", "Nearest training images", _nearest(inputs, params)),
        Section("prior-curves", "Training", drawn),
    ]
    return Section("priors", "Priors", blocks, parts)


def _tables(inputs: Inputs) -> list[Block]:
    prior = inputs.prior
    tables: list[Block] = []
    reasons = dict.fromkeys(
        m.samples.not_measured for m in prior.values() if m.samples.not_measured is not None
    )
    tables += [Absent(f"Distances of samples are left out: {reason}.") for reason in reasons]
    names = [name for name in DISTANCES if any(getattr(m.samples, name) is not None for m in prior.values())]
    if names:
        tables.append(_distances(inputs, names))
    tables += [
        table
        for table in (_agreement(prior), _judges(inputs.judges), _completion(prior))
        if table is not None
    ]
    tables.append(_bits(prior))
    tables.append(_memorisation(prior))
    tables.append(_runs(inputs))
    return tables


def _bits(prior: Mapping[str, PriorMetrics]) -> Table:
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
    counts = " and ".join(
        counted(n, "test image") for n in dict.fromkeys(m.num_samples for m in prior.values())
    )
    note = f"n = {counts}, and at most half as many of the other splits. " + (
        "Cross-entropy of a split's codes under the prior. The unigram floor knows "
        "only how often each code occurs in training; a fixed-length code knows "
        "only K. "
        "Bits per image compare between tokenizers with other K or more groups; "
        "bits per token do not. Train far below validation means overfitting."
    )
    return Table("How well the tokens are predicted", columns, rows, note)


def _distances(inputs: Inputs, names: list[str]) -> Table:
    """Samples of each prior, and for each tokenizer its floor and its ceiling once."""
    prior, rows = inputs.prior, list[list[Cell]]()
    quiet: set[int] = set()
    pairs = inputs.params["prior"]["pairs"]
    groups: dict[str, list[str]] = {}
    for pair in prior:
        groups.setdefault(str(pairs[pair]["tokenizer"]), []).append(pair)

    def add(label: str, count: int, found: SampleDistances | None, asked: str = "") -> None:
        if found is None:
            return
        if not asked:
            quiet.add(len(rows))
        values = (cell(name, getattr(found, name)) for name in names)
        rows.append([Cell(label), Cell(asked), Cell(number(count)), *values])

    for tokenizer, own in groups.items():
        for pair in own:
            metrics = prior[pair]
            add(pair, metrics.num_samples, metrics.samples, condition_name(metrics))
            add(f"not quantised, {pair}", metrics.num_samples, metrics.unquantised_samples)
        for count in dict.fromkeys(prior[pair].num_samples for pair in own):
            one = next(prior[pair] for pair in own if prior[pair].num_samples == count)
            add(f"floor: codes by frequency, {tokenizer}", count, one.unigram_samples)
            add(f"ceiling: reconstructions, {tokenizer}", count, one.reconstructions)
    first = next(iter(prior.values()))
    add(OF_ALL, first.num_samples, first.train_images)
    columns = [
        Column("prior", numeric=False),
        Column("condition", numeric=False),
        Column("n", "images a side"),
    ]
    columns += map(column, names)
    note = (
        "Samples against equally many test images. The floor decodes codes drawn independently by their training "
        "frequencies; the ceiling is the tokenizer's own reconstructions of those test images, which no prior over "
        "these codes can be expected to pass. Samples of a caption or a label map are asked for those of the test "
        f"images. Random training images are what draws from the true distribution would reach. {BOTH}"
    )
    return Table("Samples, floor and ceiling", columns, rows, note, frozenset(quiet))


def condition_name(metrics: PriorMetrics) -> str:
    """What samples are asked for, in words."""
    return {"label_map": "label map"}.get(metrics.condition, metrics.condition)


def _compared(
    title: str,
    first: Sequence[Column],
    rows: Sequence[tuple[Sequence[str], str, Mapping[str, float | None]]],
    note: str,
) -> Table | None:
    """A table with a row for each measure and a column for each set that some row has; None without rows.

    Args:
        first: heads of the columns before those of the sets.
        rows: the cells before those of the sets, the measure's name, and its values by set.
    """
    if not rows:
        return None
    sets = [name for name in SETS if any(values.get(name) is not None for *_, values in rows)]
    columns = [*first, Column("measure", numeric=False), *(SETS[name] for name in sets)]
    cells = []
    for labels, name, values in rows:
        found = column(name)
        words = ", ".join(part for part in (found.name, found.unit) if part)
        shown = (cell(name, values.get(of)) for of in sets)
        cells.append([*map(Cell, labels), Cell(f"{words} {found.note}".strip()), *shown])
    return Table(title, columns, cells, note)


def _agreement(prior: Mapping[str, PriorMetrics]) -> Table | None:
    rows, reasons, counts = [], dict[str, None](), dict[str, None]()
    for pair, metrics in prior.items():
        found = metrics.agreement
        if found is None:
            continue
        sets = {name: one for name in SETS if (one := getattr(found, name, None)) is not None}
        for name in type(found.samples).model_fields:
            values = {of: getattr(one, name) for of, one in sets.items()}
            if name in MEASURES and values["samples"] is not None:
                rows.append(([pair], name, values))
        for what, reason in (found.not_measured or {}).items():
            reasons[f"{measure(what).label} is not measured: {reason}."] = None
        if found.num_candidates is not None:
            counts[
                f"R-precision is over {found.num_candidates} captions, {found.num_draws} draws of the others."
            ] = None
    about = dict.fromkeys(f"{MEASURES[name].label}: {MEASURES[name].about}" for _, name, _ in rows)
    note = " ".join([
        "Whether samples are what was asked for, by judges that were trained on real images alone and, for CLIP "
        "similarity and R-precision, by the CLIP in use, which is also the encoder of texts. Chance: the same samples, "
        "compared with the conditions in another order. Reconstructions and test images are compared with "
        "their own conditions, which shows how far the judge itself can be trusted.", *about, *counts, *reasons,
    ])  # fmt: skip
    return _compared("Samples and what was asked for", [Column("prior", numeric=False)], rows, note)


def _judges(found: JudgesMetrics | None) -> Table | None:
    """What the judges find in real test images, and what of another image's class, map and caption."""
    if found is None:
        return None
    parts: tuple[tuple[Metrics | None, Metrics | None, Mapping[str, str]], ...] = (
        (found.classes, found.other_classes, {"top1": "class_accuracy"}),
        (found.maps, found.other_maps, {"mean_iou": "mean_iou", "pixel_accuracy": "pixel_accuracy"}),
        (
            found.captions,
            found.other_captions,
            {name: name for name in ("objects", "colours", "adjectives", "places")},
        ),
    )
    rows = []
    for real, other, names in parts:
        for field, name in names.items() if real is not None else ():
            own, chance = getattr(real, field), getattr(other, field, None)
            if own is not None:
                label = column(name)
                rows.append([Cell(f"{label.name}, {label.unit}"), cell(name, own), cell(name, chance)])
    if found.objects is not None:
        for name in ("precision", "recall"):
            value = number(100 * getattr(found.objects, name), 1)
            rows.append([Cell(f"boxes, {name} at IoU 0.5, %"), Cell(value), Cell("–")])
    columns = [
        Column("measure", numeric=False),
        Column("real test images"),
        Column("chance", "another image's"),
    ]
    note = (
        f"n = {number(found.num_images)} test images. The judges were trained on {number(found.num_train_images)} "
        "training images alone. What they miss in real images they also miss in samples, so no sample can be expected "
        "to be judged better than the real images; intervals are over images."
    )
    return Table("How far the judges can be trusted", columns, rows, note) if rows else None


def _completion(prior: Mapping[str, PriorMetrics]) -> Table | None:
    rows, counts = [], dict[int, None]()
    for pair, metrics in prior.items():
        for hole, found in (metrics.completion or {}).items():
            sets = {name: one for name in SETS if (one := getattr(found, name, None)) is not None}
            labels = [pair, f"{HOLES[hole]}, {found.hole_share:.0%}", number(found.num_images)]
            counts[found.num_images] = None
            for name in ("psnr", "clip_distance"):
                values = {of: getattr(one, name) for of, one in sets.items()}
                if values["samples"] is not None:
                    rows.append((labels, name, values))
            for name in ("fd_clip", "fid"):
                values = {
                    of: getattr(one.distances, name) for of, one in sets.items() if of != "another_image"
                }
                if values["samples"] is not None:
                    rows.append((labels, name, values))
    note = (
        "Test images of which the prior knows the tokens outside a hole and draws those inside. PSNR and CLIP distance "
        "are inside the hole, against the true image; the Frechet distance is of n whole images from the n true ones, "
        "at most half as many as of samples. A completion can be right and differ from the image: PSNR favours the "
        "mean of all completions. The known codes are of the whole image: near the hole the encoder saw a part of what "
        "is inside."
    )
    if len(counts) > 1:
        note += (
            " Frechet distances of rows with another n do not compare: of fewer images they are larger. Each compares "
            "with its own floor, chance and ceiling, which are of the same images."
        )
    first = [Column("prior", numeric=False), Column("hole", numeric=False), Column("n", "images")]
    return _compared("Completion of test images", first, rows, note)


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


COSTS = {
    "training_seconds": Column("training", "s"),
    "sampling_seconds_per_image_batch_1": Column("sampling", "ms an image, one at a time"),
    "sampling_seconds_per_image": Column("sampling", "ms an image, best batch"),
    "sampling_batch": Column("best batch", "images"),
    "network_evaluations_per_image": Column("network evaluations", "an image"),
}
"""Columns of what a prior cost, by its name in the cost sidecar; seconds of sampling are shown in milliseconds."""


def _runs(inputs: Inputs) -> Table:
    columns = [
        Column("prior", numeric=False),
        Column("condition", numeric=False),
        Column("steps"),
        Column("rollbacks"),
        Column("weights", numeric=False),
        Column("parameters", "million"),
        *COSTS.values(),
    ]
    costs = {cost.output: cost.further for cost in inputs.costs}
    rows = []
    for pair, metrics in inputs.prior.items():
        own = costs.get(f"prior/{pair}", {})
        rows.append(
            [
                Cell(pair),
                Cell(condition_name(metrics)),
                cell("", metrics.num_steps),
                cell("", metrics.num_rollbacks),
                Cell(metrics.weights),
                Cell(number(metrics.num_parameters / 1e6, 2)),
                *(Cell(_cost(name, own.get(name))) for name in COSTS),
            ]
        )
    note = "Times are of the machine that ran the stage, and without decoding."
    return Table("Training runs and their cost", columns, rows, note)


def _cost(name: str, value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    if "per_image" in name and "seconds" in name:
        return number(1000 * value, 1)
    return number(value, 0)


def published(inputs: Inputs) -> Iterator[tuple[str, Path]]:
    """The pairs of the params file whose prior is there, with its folder."""
    for pair in inputs.pairs:
        folder = inputs.folder("prior", pair)
        if (folder / MANIFEST).is_file():
            yield pair, folder


def _floor(inputs: Inputs, pair: str, folder: Path, done: set[str], params: ReportParams) -> Iterator[Block]:
    """The first rows of the floor of a tokenizer's priors, where they are not among those that are done."""
    tokenizer = str(inputs.params["prior"]["pairs"][pair]["tokenizer"])
    if tokenizer in done:
        return
    done.add(tokenizer)
    path = folder / "unigram.png"
    whole = decode_png(read_intact(path), 4 * params.max_picture_pixels, str(path), "prior")
    rows = whole[: FLOOR_ROWS * whole.shape[1] // GRID_COLUMNS]
    yield Gallery(
        f"{tokenizer}: the floor",
        [("", [picture(rows, f"samples of the unigram floor of {tokenizer}")])],
        "Codes drawn independently, each as often as in training: what a prior must beat.",
    )


def _samples(inputs: Inputs, params: ReportParams) -> list[Block]:
    blocks: list[Block] = []
    floors: set[str] = set()
    for pair, folder in published(inputs):
        path = folder / "samples.parquet"
        rows = (
            read_table(path, SAMPLES, ["image", "label_name", "caption", "label_map"])
            .slice(0, params.num_samples)
            .to_pylist()
        )
        names = [str(name) for name in read_manifest(folder, PRIOR).facts.get("map_classes", [])]
        groups = []
        for i, row in enumerate(rows):
            where = f"{path}: sample {i + 1}"
            asked = row["caption"] or row["label_name"] or ""
            sample = decode_png(row["image"], params.max_picture_pixels, where, "prior")
            alt = f"sample {i + 1} of {pair}" + (f", asked for {asked}" if asked else "")
            if row["label_map"] is None:
                groups.append(("", [picture(sample, alt, asked)]))
                continue
            classes = decode_labels(row["label_map"], where)
            legend = ", ".join(names[v - 1] for v in _largest(classes)[:LEGEND] if v <= len(names))
            asked_map = picture(
                label_colours(classes), f"label map that sample {i + 1} was asked for: {legend}", legend
            )
            groups.append(("", [asked_map, picture(sample, alt, "sample")]))
        of_maps = any(len(own) > 1 for _, own in groups)
        note = (
            "Each label map, with its largest classes, and the sample that was asked for it."
            if of_maps
            else ""
        )
        title = f"{pair}: the first {counted(len(rows), 'sample')}, not picked"
        flat = [("", [one for _, own in groups for one in own])]
        blocks.append(Gallery(title, groups if of_maps else flat, note, compact=of_maps))
        blocks += _floor(inputs, pair, folder, floors, params)
    return blocks or [
        Absent("Samples are absent: no prior in this checkout. Run: dvc pull, or dvc repro prior")
    ]


def _largest(classes: UInt8[np.ndarray, "h w"]) -> list[int]:
    """The classes of a map from the largest on, without 0, which is none."""
    values, counts = np.unique(classes[classes > 0], return_counts=True)
    return [int(value) for value in values[np.argsort(-counts, kind="stable")]]


def _completions(inputs: Inputs, params: ReportParams) -> list[Block]:
    blocks: list[Block] = []
    for pair, folder in published(inputs):
        path = folder / "completions.parquet"
        if not path.is_file():
            continue
        for hole in HOLES:
            rows = [row for row in read_table(path, COMPLETIONS).to_pylist() if row["hole"] == hole]
            groups = []
            for row in rows:
                where = f"{path}: {row['image_id']}"

                def shown(content: bytes, caption: str, alt: str, where: str = where) -> Picture:
                    return picture(
                        decode_png(content, params.max_picture_pixels, where, "prior"), alt, caption
                    )

                known = decode_png(row["original"], None, where, "prior").copy()
                known[decode_labels(row["mask"], where) > 0] = HIDDEN
                asked = row["caption"] or row["label_name"] or ""
                alt = f"what is known of {row['image_id']}"
                pictures = [picture(shrunk(known, params.max_picture_pixels), alt, "known")]
                pictures += [
                    shown(png, f"{i + 1}", f"completion {i + 1} of {row['image_id']} by {pair}")
                    for i, png in enumerate(row["completions"])
                ]
                pictures.append(shown(row["original"], "true image", f"{row['image_id']} itself"))
                groups.append((asked, pictures))
            if groups:
                note = (
                    "What is known, completions drawn one after the other and not picked, and the true image."
                )
                blocks.append(Gallery(f"{pair}: {HOLES[hole]}", groups, note))
    return blocks or [Absent("Completions are absent: no prior that takes known tokens is in this checkout.")]


def _nearest(inputs: Inputs, params: ReportParams) -> list[Block]:
    blocks: list[Block] = []
    for pair, folder in published(inputs):
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
