"""From a source to the dataset artifact: workers decode, resize, encode; the parent writes shards."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES, QUARANTINE, TRUTH
from vqpipe.artifacts.tables import ShardWriter, stream_table, to_table, write_table
from vqpipe.data.adapters import ADAPTERS
from vqpipe.data.adapters.base import Chunk, Plan, need_source
from vqpipe.data.adapters.layouts import hint, hinted
from vqpipe.data.images import encode_png, resize, resize_labels, target_shape
from vqpipe.data.quarantine import quarantine_table, rows_left_out
from vqpipe.data.reasons import IMAGE_REASONS, REASONS
from vqpipe.data.records import Bad, Record, Thing
from vqpipe.data.walk import counts, one_line
from vqpipe.errors import DataError
from vqpipe.params.dataset import SPLITS, DatasetParams, Resize, SplitName
from vqpipe.runtime.env import scratch_root
from vqpipe.runtime.progress import track
from vqpipe.runtime.shards import map_shards
from vqpipe.runtime.terminal import say

QUARANTINE_FILE = "quarantine.parquet"
TRUTH_FILE = "truth.parquet"


@dataclass(frozen=True)
class _Done:
    """A worker's result for one chunk: rows of IMAGES and what was left out."""

    split: SplitName
    table: pa.Table
    bad: list[Bad]
    num_captions: int
    short_side: int | None


def fit(record: Record, config: Resize) -> Record | Bad:
    """Scale a record's image, segmentation and boxes as `config` says, or refuse it as too small."""
    height, width = record.image.shape[:2]
    if config.short_side is None or min(height, width) == config.short_side:
        return record
    if min(height, width) < config.short_side and config.too_small == "quarantine":
        return Bad(
            record.image_id, "too_small", f"{width} x {height} pixels, shorter side {config.short_side} asked"
        )
    shape = target_shape(height, width, config.short_side)
    down, across = shape[0] / height, shape[1] / width
    things = tuple(
        Thing(
            thing.name,
            (thing.box[0] * across, thing.box[1] * down, thing.box[2] * across, thing.box[3] * down),
            thing.adjectives,
            thing.visible,
        )
        for thing in record.things
    )
    return Record(
        record.image_id, resize(record.image, shape, config.filter), record.captions, record.label,
        record.label_name, things, record.referring, record.questions,
        None if record.segmentation is None else resize_labels(record.segmentation, shape),
    )  # fmt: skip


def to_row(record: Record) -> dict[str, Any]:
    """A record as a row of IMAGES; image and segmentation become PNG."""
    return {
        "image_id": record.image_id, "image": encode_png(record.image),
        "height": record.image.shape[0], "width": record.image.shape[1],
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
    for entry in ADAPTERS[config.source.kind].load(config.source, chunk, config.max_pixels):
        fitted = fit(entry, config.resize) if isinstance(entry, Record) else entry
        if isinstance(fitted, Bad):
            bad.append(fitted)
        else:
            rows.append(to_row(fitted))
    sides = [min(row["height"], row["width"]) for row in rows]
    captions = sum(len(row["captions"]) for row in rows)
    return _Done(chunk.split, to_table(IMAGES, rows), bad, captions, min(sides) if sides else None)


def raw_inputs(config: DatasetParams) -> list[Path]:
    """The files on disk that the dataset is made from, for its lineage; `scenes` has none but the code.

    Raises:
        DataError: the source's path does not exist.
    """
    if config.source.kind == "scenes":
        return []
    return [need_source(Path(config.source.path), ADAPTERS[config.source.kind].layout)]


def build_dataset(config: DatasetParams, out: Path) -> dict[str, Any]:
    """Build and publish the dataset artifact; the same bytes for any number of workers.

    Facts: `kind`; `splits`: per split the number of `images` and its `shards` by name; `classes` and
    `categories` (the segmentation's numbers from 1 on) by name; `resolution`, the smallest shorter side in
    pixels.

    Returns:
        The metrics: images and captions per split, quarantined items by reason, `bad_fraction`, the share of
        the source's images that were quarantined, and for sources that list annotations their number and
        `bad_annotation_fraction`, the share that was left out. Counts are of everything;
        `quarantine_rows_left_out`, where it is there, is the number of rows that the quarantine table lacks.

    Raises:
        DataError: the source does not have the layout expected, a split is empty, or too many images are
            bad. Nothing is published then; the quarantine table goes to the scratch folder.
    """
    adapter = ADAPTERS[config.source.kind]
    try:
        plan = adapter.plan(config.source, config.max_pixels)
    except DataError as error:
        raise _with_hint(error, config) from error
    facts: dict[str, Any] = {}
    with publish_folder(out, DATASET, facts) as folder:
        writers = {
            split: ShardWriter(folder, split, IMAGES, shard_bytes=config.shard_bytes) for split in SPLITS
        }
        captions: Counter[str] = Counter()
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
        metrics = _metrics(images, captions, bad, plan)
        try:
            _judge(config, metrics, bad, adapter.layout)
        except DataError as error:
            raise _with_hint(error, config) from error
        table, table_facts = quarantine_table(bad)
        write_table(folder / QUARANTINE_FILE, QUARANTINE, table, table_facts)
        lacking = rows_left_out(table_facts).total()
        if lacking:
            metrics["quarantine_rows_left_out"] = lacking
        if plan.truth:
            write_table(folder / TRUTH_FILE, TRUTH, to_table(TRUTH, plan.truth))
        facts.update(
            kind=config.source.kind,
            splits={split: {"images": images[split], "shards": writers[split].shards} for split in SPLITS},
            classes=list(plan.classes),
            categories=list(plan.categories),
            resolution=min(sides),
        )
    _note(config, metrics, bad)
    return metrics


def _note(config: DatasetParams, metrics: dict[str, Any], bad: list[tuple[str, Bad]]) -> None:
    """Print what a published dataset lacks of its source: annotations, or captions that another source reads."""
    lost = Counter[str]()
    for _, entry in bad:
        lost[entry.reason] += entry.annotations
    lost = +lost
    if lost:
        reasons = ", ".join(f"{count} {reason}" for reason, count in lost.most_common())
        say(
            f"note: {metrics['bad_annotation_fraction']:.1%} of {metrics['num_annotations']} annotations were left "
            f"out ({reasons}); see {QUARANTINE_FILE}",
            err=True,
        )
    if config.source.kind == "image_folder" and "other_file" in metrics["quarantined"]:
        told = hint(Path(config.source.path))
        if told is not None:
            say(f"note: captions that lie beside the images were not read. {told}", err=True)


def _with_hint(error: DataError, config: DatasetParams) -> DataError:
    """An error of a source that may have met what another source reads, with the params of that one."""
    return (
        hinted(error, Path(config.source.path)) if config.source.kind in ("coco", "image_folder") else error
    )


def _metrics(
    images: dict[SplitName, int], captions: Counter[str], bad: list[tuple[str, Bad]], plan: Plan
) -> dict[str, Any]:
    reasons = Counter(entry.reason for _, entry in bad)
    unknown = set(reasons) - set(REASONS)
    assert not unknown, f"reasons that vqpipe.data.reasons does not list: {unknown}"
    lost = sum(count for reason, count in reasons.items() if reason in IMAGE_REASONS)
    total = lost + sum(images.values())
    annotations = {}
    if plan.num_annotations is not None:
        left_out = sum(entry.annotations for _, entry in bad)
        listed = max(plan.num_annotations, captions.total() + left_out)
        share = left_out / max(listed, 1)
        annotations = {"num_annotations": listed, "bad_annotation_fraction": round(share, 6)}
    return {
        "images": images,
        "captions": {split: captions[split] for split in SPLITS},
        "num_classes": len(plan.classes),
        "quarantined": counts(entry for _, entry in bad),
        "bad_fraction": round(lost / total, 6) if total else 0.0,
        **annotations,
    }


def _judge(config: DatasetParams, metrics: dict[str, Any], bad: list[tuple[str, Bad]], layout: str) -> None:
    """Raise `DataError` when too much is bad or a split is empty."""
    empty = [split for split, count in metrics["images"].items() if count == 0]
    too_bad = metrics["bad_fraction"] > config.max_bad_fraction
    limit = config.max_bad_annotation_fraction
    most = config.max_bad_fraction if limit is None else limit
    lost = metrics.get("bad_annotation_fraction", 0.0)
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
    examples = {entry.reason: one_line(entry.item) for _, entry in reversed(bad)}
    shown = "; ".join(f"{count} {reason} (such as {examples[reason]})" for reason, count in common)
    if too_bad:
        raise DataError(
            f"{metrics['bad_fraction']:.1%} of the images of {config.source.path} cannot be used; {where}",
            found=shown,
            expected=f"at most dataset.max_bad_fraction = {config.max_bad_fraction:.1%}",
            run="mend the items, or raise dataset.max_bad_fraction in params.yaml",
        )
    if lost > most:
        raise DataError(
            f"{lost:.1%} of the {metrics['num_annotations']} annotations of {config.source.path} cannot be used; "
            f"{where}",
            found=shown,
            expected=f"at most dataset.max_bad_{'' if limit is None else 'annotation_'}fraction = {most:.1%}",
            run="mend the items, or set dataset.max_bad_annotation_fraction in params.yaml",
        )
    counts = ", ".join(f"{split} {count}" for split, count in metrics["images"].items())
    raise DataError(
        f"dataset.source: split {empty[0]} of {config.source.path} is empty{'; ' + where if where else ''}",
        found=f"images: {counts}" + (f"; left out: {shown}" if shown else ""),
        expected=f"at least one image a split; {layout}",
        run="fill the split's folder, or raise its dataset.source.holdout share (a hash may miss few images)"
        if config.source.kind != "scenes" else "raise its num_ in dataset.source",
    )  # fmt: skip
