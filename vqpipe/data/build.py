"""The dataset stage: from a source to the dataset artifact. Workers decode, resize and encode, the parent writes."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pydantic import Field

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES, QUARANTINE, TRUTH
from vqpipe.artifacts.tables import ShardWriter, stream_table, to_table, write_table
from vqpipe.data.adapters import ADAPTERS, source_params
from vqpipe.data.adapters.base import Adapter, Chunk, Plan
from vqpipe.data.adapters.layouts import hint, hinted
from vqpipe.data.images import encode_png, resize, resize_labels, target_shape
from vqpipe.data.records import (
    IMAGE_REASONS,
    REASONS,
    SPLITS,
    Bad,
    Record,
    SplitName,
    count_by_reason,
    quarantine_table,
    rows_left_out,
)
from vqpipe.errors import DataError, printable
from vqpipe.params.base import Params
from vqpipe.runtime.env import scratch_root
from vqpipe.runtime.shards import map_shards
from vqpipe.runtime.terminal import say, track

QUARANTINE_FILE = "quarantine.parquet"
TRUTH_FILE = "truth.parquet"

if TYPE_CHECKING:
    Source = Any
else:
    Source = source_params("images")
    """The params of an adapter that gives images."""


class Resize(Params):
    """How images are scaled before they are stored."""

    short_side: int | None = Field(ge=8, le=4096)
    """Length of the shorter side of the stored images, pixels; null stores them as they are."""
    filter: Literal["box", "bilinear", "bicubic", "lanczos"]
    """Resampling filter; all are antialiased."""
    too_small: Literal["upscale", "quarantine"]
    """What happens to images whose shorter side is below `short_side`."""


class DatasetParams(Params):
    """Params of the `dataset` stage."""

    source: Source
    """Where the images come from."""
    resize: Resize
    """How images are scaled before they are stored."""
    max_bad_fraction: float = Field(ge=0, le=1)
    """Highest share of the source's images that may be quarantined before the stage fails, 0 to 1."""
    max_bad_annotation_fraction: float | None = Field(default=None, ge=0, le=1)
    """Highest share of its captions and objects that may be left out, 0 to 1; null: as `max_bad_fraction`."""
    max_pixels: int = Field(ge=1024)
    """Images of more pixels than this are quarantined unopened (decompression bombs)."""
    shard_bytes: int = Field(ge=1 << 20)
    """About how large a Parquet shard grows, bytes."""


class DatasetMetrics(Metrics):
    """What a dataset has and what was left out of its source. Counts are of everything, in every split."""

    images: dict[SplitName, int]
    """Images per split."""
    captions: dict[SplitName, int]
    """Captions per split."""
    num_classes: int
    """Classes of the images; 0 where the source has none."""
    quarantined: dict[str, int]
    """Items that were left out, by reason (`vqpipe.data.records.REASONS`)."""
    bad_fraction: float
    """Share of the source's images that were left out, 0 to 1; lower is better."""
    num_annotations: int | None = None
    """Captions and objects that the source lists, usable or not; None where it lists none of its own."""
    bad_annotation_fraction: float | None = None
    """Share of these that were left out, 0 to 1; lower is better."""
    quarantine_rows_left_out: int | None = None
    """Rows that the quarantine table lacks because its length is bounded; None where it has all."""


@dataclass(frozen=True)
class _Done:
    """A worker's result for one chunk: rows of IMAGES and what was left out."""

    split: SplitName
    table: pa.Table
    bad: list[Bad]
    num_captions: int
    short_side: int | None


def scaled(record: Record, config: Resize, max_pixels: int) -> Record | Bad:
    """Scale a record's image, segmentation and boxes as `config` states, or refuse it: too small, or long and narrow
    and then of more than `max_pixels`."""
    image = record.pixels
    height, width = image.shape[:2]
    if config.short_side is None or min(height, width) == config.short_side:
        return record
    if min(height, width) < config.short_side and config.too_small == "quarantine":
        return Bad(
            record.image_id, "too_small", f"{width} x {height} pixels, shorter side {config.short_side} asked"
        )
    shape = target_shape(height, width, config.short_side)
    if shape[0] * shape[1] > max_pixels:
        detail = (
            f"{width} x {height} pixels, scaled up to {shape[1]} x {shape[0]}; at most {max_pixels} allowed"
        )
        return Bad(record.image_id, "too_many_pixels", detail)
    down, across = shape[0] / height, shape[1] / width
    things = tuple(
        replace(thing, box=(x * across, y * down, wide * across, high * down))
        for thing in record.things
        for x, y, wide, high in (thing.box,)
    )
    labels = None if record.segmentation is None else resize_labels(record.segmentation, shape)
    return replace(record, image=resize(image, shape, config.filter), things=things, segmentation=labels)


def to_row(record: Record) -> dict[str, Any]:
    """A record as a row of IMAGES; image and segmentation become PNG."""
    return {
        "image_id": record.image_id, "image": encode_png(record.pixels),
        "height": record.pixels.shape[0], "width": record.pixels.shape[1],
        "label": record.label, "label_name": record.label_name, "captions": list(record.captions),
        "things": [
            {"name": t.name, "box": list(t.box), "adjectives": list(t.adjectives), "visible": t.visible}
            for t in record.things
        ],
        "referring": [{"thing": r.thing, "text": r.text} for r in record.referring],
        "questions": [{"question": q.question, "answer": q.answer, "kind": q.kind} for q in record.questions],
        "segmentation": None if record.segmentation is None else encode_png(record.segmentation),
    }  # fmt: skip


def _work(config: DatasetParams, chunk: Chunk) -> _Done:
    rows: list[dict[str, Any]] = []
    bad: list[Bad] = []
    for entry in ADAPTERS[config.source.kind]().load(config.source, chunk, config.max_pixels):
        resized = scaled(entry, config.resize, config.max_pixels) if isinstance(entry, Record) else entry
        if isinstance(resized, Bad):
            bad.append(resized)
        else:
            rows.append(to_row(resized))
    sides = [min(row["height"], row["width"]) for row in rows]
    captions = sum(len(row["captions"]) for row in rows)
    return _Done(chunk.split, to_table(IMAGES, rows), bad, captions, min(sides) if sides else None)


def raw_inputs(config: DatasetParams) -> list[Path]:
    """The files on disk that the dataset is made from, for its lineage; `scenes` has none but the code.

    Raises:
        DataError: the source's path does not exist.
    """
    return ADAPTERS[config.source.kind]().inputs(config.source)


def build_dataset(config: DatasetParams, out: Path) -> DatasetMetrics:
    """Build and publish the dataset artifact; the same bytes for any number of workers.

    Facts: `kind`; `splits`: per split the number of `images` and its `shards` by name; `classes` and
    `categories` (the segmentation's numbers from 1 on) by name; `resolution`, the smallest shorter side in
    pixels.

    Raises:
        DataError: the source does not have the layout expected, a split is empty, or too many images are
            bad. Nothing is published then; the quarantine table goes to the scratch folder.
    """
    adapter = ADAPTERS[config.source.kind]()
    try:
        plan = adapter.plan(config.source, config.max_pixels)
    except DataError as error:
        raise _hinted(error, config, adapter) from error
    facts: dict[str, Any] = {}
    with publish_folder(out, DATASET, facts) as folder:
        writers = {
            split: ShardWriter(folder, split, IMAGES, shard_bytes=config.shard_bytes) for split in SPLITS
        }
        captions: Counter[SplitName] = Counter()
        found: list[tuple[str, Bad]] = []
        sides: list[int] = []
        with ExitStack() as open_files:
            for writer in writers.values():
                open_files.callback(writer.close)
            for done in track(map_shards(partial(_work, config), plan.chunks), "dataset"):
                writers[done.split].write(done.table)
                captions[done.split] += done.num_captions
                found += [(done.split, bad) for bad in done.bad]
                sides += [] if done.short_side is None else [done.short_side]
        bad = [*plan.bad, *found]
        images = {split: writers[split].rows for split in SPLITS}
        table, table_facts = quarantine_table(bad)
        metrics = _metrics(images, captions, bad, plan, rows_left_out(table_facts).total())
        try:
            _check_enough(config, metrics, bad, adapter)
        except DataError as error:
            raise _hinted(error, config, adapter) from error
        write_table(folder / QUARANTINE_FILE, QUARANTINE, table, table_facts)
        if plan.truth:
            write_table(folder / TRUTH_FILE, TRUTH, to_table(TRUTH, plan.truth))
        facts.update(
            kind=config.source.kind,
            splits={split: {"images": images[split], "shards": writers[split].shards} for split in SPLITS},
            classes=list(plan.classes),
            categories=list(plan.categories),
            resolution=min(sides),
        )
    _note_losses(config, metrics, bad, adapter)
    return metrics


def _note_losses(
    config: DatasetParams, metrics: DatasetMetrics, bad: list[tuple[str, Bad]], adapter: Adapter
) -> None:
    """Print what a published dataset lacks of its source: images, annotations, captions that another source reads."""
    images = count_by_reason(entry for _, entry in bad if entry.reason in IMAGE_REASONS)
    if images:
        reasons, num = (
            ", ".join(f"{count} {reason}" for reason, count in images.items()),
            sum(images.values()),
        )
        total = num + sum(metrics.images.values())
        say(f"note: {num} of {total} images were left out ({reasons}); see {QUARANTINE_FILE}", err=True)
    lost = Counter[str]()
    for _, entry in bad:
        lost[entry.reason] += entry.annotations
    lost = +lost
    if lost:
        reasons = ", ".join(f"{count} {reason}" for reason, count in lost.most_common())
        say(
            f"note: {metrics.bad_annotation_fraction:.1%} of {metrics.num_annotations} annotations were left "
            f"out ({reasons}); see {QUARANTINE_FILE}",
            err=True,
        )
    if adapter.may_be_pairs and "other_file" in metrics.quarantined:
        advice = hint(Path(config.source.path))
        if advice is not None:
            say(f"note: captions in files of the images' names were not read. {advice}", err=True)


def _hinted(error: DataError, config: DatasetParams, adapter: Adapter) -> DataError:
    """The error, with the params of the source `pairs` where the path may have been meant for it."""
    return hinted(error, Path(config.source.path)) if adapter.may_be_pairs else error


def _metrics(
    images: dict[SplitName, int],
    captions: Counter[SplitName],
    bad: list[tuple[str, Bad]],
    plan: Plan,
    rows_left_out: int,
) -> DatasetMetrics:
    reasons = Counter(entry.reason for _, entry in bad)
    unknown = set(reasons) - set(REASONS)
    assert not unknown, f"reasons that vqpipe.data.records does not list: {unknown}"
    lost = sum(count for reason, count in reasons.items() if reason in IMAGE_REASONS)
    total = lost + sum(images.values())
    listed = share = None
    if plan.num_annotations is not None:
        left_out = sum(entry.annotations for _, entry in bad)
        listed = max(plan.num_annotations, captions.total() + left_out)
        share = round(left_out / max(listed, 1), 6)
    return DatasetMetrics(
        images=images,
        captions={split: captions[split] for split in SPLITS},
        num_classes=len(plan.classes),
        quarantined=count_by_reason(entry for _, entry in bad),
        bad_fraction=round(lost / total, 6) if total else 0.0,
        num_annotations=listed,
        bad_annotation_fraction=share,
        quarantine_rows_left_out=rows_left_out or None,
    )


def _check_enough(
    config: DatasetParams, metrics: DatasetMetrics, bad: list[tuple[str, Bad]], adapter: Adapter
) -> None:
    """Raise `DataError` when too much is bad or a split is empty."""
    empty = [split for split, count in metrics.images.items() if count == 0]
    too_bad = metrics.bad_fraction > config.max_bad_fraction
    limit = config.max_bad_annotation_fraction
    most = config.max_bad_fraction if limit is None else limit
    lost = metrics.bad_annotation_fraction or 0.0
    if not (empty or too_bad or lost > most):
        return
    where = ""
    if bad:
        kept = scratch_root() / "dataset" / QUARANTINE_FILE
        table, facts = quarantine_table(bad)
        with stream_table(kept, QUARANTINE, facts) as add:
            add(table)
        items = (
            f"{len(table):,} of the {len(bad):,} items and their reasons"
            if facts
            else "every item and its reason"
        )
        where = f"{items}: {kept}"
    common = Counter(entry.reason for _, entry in bad).most_common(3)
    examples = {entry.reason: printable(entry.item) for _, entry in reversed(bad)}
    shown = "; ".join(f"{count} {reason} (such as {examples[reason]})" for reason, count in common)
    if too_bad:
        raise DataError(
            f"{metrics.bad_fraction:.1%} of the images of {config.source.path} cannot be used; {where}",
            found=shown,
            expected=f"at most dataset.max_bad_fraction = {config.max_bad_fraction:.1%}",
            run="repair the items, or raise dataset.max_bad_fraction in params.yaml",
        )
    if lost > most:
        raise DataError(
            f"{lost:.1%} of the {metrics.num_annotations} annotations of {config.source.path} cannot be used; "
            f"{where}",
            found=shown,
            expected=f"at most dataset.max_bad_{'' if limit is None else 'annotation_'}fraction = {most:.1%}",
            run="repair the items, or set dataset.max_bad_annotation_fraction in params.yaml",
        )
    counts = ", ".join(f"{split} {count}" for split, count in metrics.images.items())
    raise DataError(
        f"dataset.source: split {empty[0]} of {config.source.path} is empty{'; ' + where if where else ''}",
        found=f"images: {counts}" + (f"; left out: {shown}" if shown else ""),
        expected=f"at least one image a split; {adapter.layout}".splitlines(),
        run=adapter.fill_split,
    )
