"""The data set and the CLIP: counts, examples, quarantine, and retrieval and chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from vqpipe.artifacts.publish import MANIFEST, read_manifest
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES, QUARANTINE
from vqpipe.artifacts.tables import iter_batches, read_header, read_table
from vqpipe.data.build import DatasetMetrics
from vqpipe.data.records import rows_left_out
from vqpipe.errors import counted
from vqpipe.report.blocks import (
    Absent,
    Block,
    Cell,
    Chart,
    Charts,
    Column,
    Gallery,
    Picture,
    Section,
    Table,
    Text,
)
from vqpipe.report.charts import Series, legend, line_chart
from vqpipe.report.inputs import Curve, Inputs, ReportParams
from vqpipe.report.names import HIGHER, curve_label, number
from vqpipe.report.pictures import decode_png, picture


def about_dataset(inputs: Inputs, params: ReportParams) -> Section:
    """The section `Data set`."""
    blocks: list[Block] = []
    metrics, folder = inputs.dataset, inputs.folder("dataset")
    there = (folder / MANIFEST).is_file()
    if metrics is None:
        blocks.append(
            Absent("Counts are absent: there is no metrics file of the dataset stage. Run: dvc repro dataset")
        )
    else:
        categories = read_manifest(folder, DATASET).facts.get("categories") if there else None
        blocks += _counts(metrics, len(categories or ()))
    if there:
        pictures = list(_examples(folder, params))
        if pictures:
            note = "Pictures spread evenly over the training split, each with its first caption."
            blocks.append(Gallery("Examples", [("", pictures)], note))
        blocks += _quarantine(folder)
    else:
        blocks.append(
            Absent(
                "Example pictures and the quarantine table are absent: there is no data "
                "set in this checkout. Run: dvc pull, or dvc repro dataset"
            )
        )
    return Section("dataset", "Data set", blocks)


def _counts(metrics: DatasetMetrics, num_categories: int) -> list[Block]:
    rows = [
        [Cell(split), Cell(number(n)), Cell(number(metrics.captions.get(split, 0)))]
        for split, n in metrics.images.items()
    ]
    columns = [Column("split", numeric=False), Column("images"), Column("captions")]
    order = {"train": 0, "validation": 1, "test": 2}
    rows.sort(key=lambda row: order.get(row[0].text, 3))
    lost = ", ".join(
        f"{number(count)} {reason.replace('_', ' ')}" for reason, count in sorted(metrics.quarantined.items())
    )
    pixels = f", {counted(num_categories, 'class', 'classes')} of pixels" if num_categories else ""
    share, listed = metrics.bad_annotation_fraction, metrics.num_annotations
    annotations = f", {share:.2%} of its {number(listed)} captions and objects" if share and listed else ""
    return [
        Table("Images and captions", columns, rows),
        Text(
            f"{counted(metrics.num_classes, 'class', 'classes')}{pixels}. Quarantined: {lost or 'nothing'} "
            f"({metrics.bad_fraction:.2%} of the source's images{annotations})."
        ),
    ]


def _examples(folder: Path, params: ReportParams) -> Iterator[Picture]:
    manifest = read_manifest(folder, DATASET)
    split = manifest.facts["splits"]["train"]
    total = int(split["images"])
    wanted = (
        set(
            np.unique(
                np.linspace(0, total - 1, min(total, params.num_dataset_images)).round().astype(int)
            ).tolist()
        )
        if total
        else set()
    )
    at = 0
    for shard in split["shards"]:
        for batch in iter_batches(
            folder / shard, IMAGES, ["image_id", "image", "captions", "label_name"], rows=256
        ):
            here = [i for i in range(batch.num_rows) if at + i in wanted]
            for row in batch.take(here).to_pylist() if here else []:
                caption = (row["captions"] or [row["label_name"] or ""])[0]
                where = f"{folder / shard}: image {row['image_id']}"
                pixels = decode_png(row["image"], params.max_picture_pixels, where, "dataset")
                yield picture(pixels, f"image {row['image_id']}: {caption}", caption)
            at += batch.num_rows


def _quarantine(folder: Path) -> list[Block]:
    path = folder / "quarantine.parquet"
    table, lacking = read_table(path, QUARANTINE), rows_left_out(read_header(path).facts)
    if table.num_rows == 0:
        return []
    entries = table.to_pylist()
    counts = Counter((entry["split"], entry["reason"]) for entry in entries) + lacking
    first = {(entry["split"], entry["reason"]): entry for entry in reversed(entries)}
    rows = [
        [
            Cell(reason.replace("_", " ")),
            Cell(split),
            Cell(number(n)),
            _example(first.get((split, reason))),
        ]
        for (split, reason), n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    columns = [
        Column("reason", numeric=False),
        Column("split", numeric=False),
        Column("items"),
        Column("for example", numeric=False),
    ]
    note = (
        f"The counts are of everything. The quarantine table keeps {counted(table.num_rows, 'row')}; "
        f"{number(lacking.total())} more were left out of it."
    )
    return [Table("Quarantine: items left out, and why", columns, rows, note if lacking else "")]


def _example(entry: Mapping[str, str] | None) -> Cell:
    return Cell("–") if entry is None else Cell(entry["item"], entry["detail"])


def about_clip(inputs: Inputs) -> Section:
    """The section `CLIP`."""
    metrics = inputs.clip
    if metrics is None:
        return Section(
            "clip",
            "CLIP",
            [Absent("Retrieval is absent: there is no metrics file of the clip stage. Run: dvc repro clip")],
        )
    measured = (
        ("image to text, R@1", metrics.image_to_text_r1, metrics.chance_image_to_text_r1),
        ("image to text, R@5", metrics.image_to_text_r5, metrics.chance_image_to_text_r5),
        ("text to image, R@1", metrics.text_to_image_r1, metrics.chance_text_to_image_r1),
        ("text to image, R@5", metrics.text_to_image_r5, metrics.chance_text_to_image_r5),
    )
    rows = [
        [
            Cell(label),
            Cell(f"{100 * value:.1f}"),
            Cell(f"{100 * chance:.2f}"),
            Cell(number(value / chance, 1) if chance else "–"),
        ]
        for label, value, chance in measured
    ]
    columns = [
        Column("retrieval", numeric=False),
        Column("found", "%", HIGHER),
        Column("chance", "%"),
        Column("found / chance"),
    ]
    images, captions = (
        counted(metrics.num_validation, "validation image"),
        counted(metrics.num_texts, "distinct caption"),
    )
    blocks: list[Block] = [
        Text(
            f"The CLIP in use is {metrics.id}. Recall at k: the share of queries of which one of the k best candidates "
            "is right; chance is the recall of a random order."
        ),
        Table("Image-text retrieval on the validation split", columns, rows, f"n = {images} and {captions}."),
    ]
    curves = inputs.curves.get("clip", {})
    if curves and any(curve["step"] for curve in curves.values()):
        blocks.append(curve_charts("Fitting", curves))
    return Section("clip", "CLIP", blocks)


def curve_charts(title: str, curves: Mapping[str, Curve], note: str = "") -> Charts:
    """One chart for each column of the curves, a line for each run; losses that never change are left out."""
    names = sorted({name for curve in curves.values() for name in curve} - {"step"})
    charts = []
    for name in names:
        lines = [
            Series(run, curve["step"], curve[name], colour)
            for colour, (run, curve) in enumerate(curves.items())
            if any(v == v for v in curve.get(name, []))
        ]
        if lines:
            values = [v for line in lines for v in line.y if v == v]
            is_wide = min(values) > 0 and max(values) / min(values) > 100
            label = curve_label(name)
            svg = line_chart(
                lines, x_label="step", y_label="", alt=f"{title}: {label} by step", log_y=is_wide
            )
            charts.append(Chart(svg, f"{label} (logarithmic)" if is_wide else label))
    return Charts(title, charts, legend(list(curves)) if len(curves) > 1 else [], note)
