"""Which heads were measured, and the differences of aligned and plain tokenizers, paired over images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vqpipe.artifacts.publish import MANIFEST
from vqpipe.artifacts.specs.reading import READING_PER_IMAGE
from vqpipe.artifacts.tables import read_table
from vqpipe.metrics.bootstrap import mean_interval
from vqpipe.params.base import merged, validate
from vqpipe.params.reading import ReadingParams
from vqpipe.report.blocks import Absent, Block, Cell, Column, Table, Text
from vqpipe.report.inputs import Inputs
from vqpipe.report.names import HIGHER, MEASURES, cell, change

READERS = ("fresh", "own")
"""Whose heads read, in the order in which they are shown."""
RANKS = ("r1", "r5", "r10")
DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}
COSINES = {"raw": "code vectors", "projected": "projected code vectors"}
"""The reading's two kinds of codes' cosines."""

Values = Mapping[str, float]
"""A measure's value by image id."""


@dataclass(frozen=True)
class Reading:
    """A reading whose metrics are there; `trained` are its tokenizer's params, `config` its own."""

    name: str
    folder: Path
    metrics: Mapping[str, Any]
    trained: Mapping[str, Any]
    config: ReadingParams

    @property
    def aligned(self) -> bool:
        """Whether its tokenizer was trained with alignment heads, which have been read as well."""
        return "own" in self.metrics

    @property
    def readers(self) -> list[str]:
        """Which heads have read: `fresh`, and `own` of an aligned tokenizer."""
        return [reader for reader in READERS if reader in self.metrics]

    @property
    def label(self) -> str:
        """The variant's name, with its tokenizer's where that is another."""
        return self.name if self.name == self.config.tokenizer else f"{self.name} ({self.config.tokenizer})"

    @property
    def has_tables(self) -> bool:
        """Whether the artifact is there, beside its metrics."""
        return (self.folder / MANIFEST).is_file()

    @cached_property
    def values(self) -> Mapping[tuple[str, str], Values]:
        """Each measure's values by image, for (reader, measure); empty without the artifact.

        Raises:
            ArtifactError: the table is damaged or of another version.
        """
        if not self.has_tables:
            return {}
        table = read_table(self.folder / "per_image.parquet", READING_PER_IMAGE)
        found: dict[tuple[str, str], dict[str, float]] = {}
        columns = (table[name].to_pylist() for name in ("reader", "measure", "image_id", "value"))
        for reader, measure, image_id, value in zip(*columns, strict=True):
            found.setdefault((reader, measure), {})[image_id] = value
        return found

    def gain(self, reader: str, part: str) -> Values | None:
        """What the codes add to a masked word's recall, by image; None where that was not measured."""
        own = self.values.get((reader, f"{part}.recall"))
        other = self.values.get((reader, f"{part}.other_image"))
        if own is None or other is None or own.keys() != other.keys():
            return None
        return {image: value - other[image] for image, value in own.items()}

    def difference(self, values: Values | None, base: Values | None) -> dict[str, float] | None:
        """The mean of `values` minus `base`, image by image, with its paired-bootstrap 95 % interval.

        None where one side was not measured, or the two were not measured on the same images.
        """
        if not values or not base or values.keys() != base.keys():
            return None
        pairs = np.array([values[image] - base[image] for image in sorted(values)])
        return mean_interval(pairs, self.config.num_bootstrap, self.config.seed)

    def interval(self, values: Values) -> dict[str, float]:
        """The mean over images with its bootstrap 95 % interval."""
        return mean_interval(
            np.array([values[i] for i in sorted(values)]), self.config.num_bootstrap, self.config.seed
        )


@dataclass(frozen=True)
class Pair:
    """An aligned reading beside a plain one; `further`: in what else their params differ."""

    plain: Reading
    aligned: Reading
    further: Sequence[str]


def read_readings(inputs: Inputs) -> list[Reading]:
    """Every reading whose metrics are there, in the order of the params file.

    Raises:
        ParamsError: params of a reading that do not fit the stage.
    """
    section = inputs.params.get("read", {})
    tokenizer = inputs.params.get("tokenizer", {})
    trained = {
        name: merged(tokenizer.get("common", {}), own or {})
        for name, own in tokenizer.get("variants", {}).items()
    }
    readings = []
    for name, metrics in inputs.read.items():
        own = merged(section.get("common", {}), section["variants"][name])
        config = validate(own, f"read.variants.{name}", ReadingParams)
        folder = inputs.folder("reading", name)
        readings.append(Reading(name, folder, metrics, trained.get(config.tokenizer, {}), config))
    return readings


def paired(readings: Sequence[Reading]) -> list[Pair]:
    """Each aligned reading with the plain one of the same kind of quantizer that differs from it in the fewest params.

    Of equally near ones the first; an aligned reading without a plain one of its kind has no pair.
    """
    pairs = []
    for aligned in (reading for reading in readings if reading.aligned):
        found = [
            Pair(plain, aligned, _further(plain, aligned))
            for plain in readings
            if not plain.aligned and _kind(plain) == _kind(aligned)
        ]
        if found:
            pairs.append(min(found, key=lambda pair: len(pair.further)))
    return pairs


def families(readings: Sequence[Reading]) -> list[list[Reading]]:
    """Readings that stand side by side: a plain one with its aligned ones; what has no other is one last family."""
    pairs = paired(readings)
    beside: dict[str, list[Reading]] = {}
    for pair in pairs:
        beside.setdefault(pair.plain.name, [pair.plain]).append(pair.aligned)
    shown = {reading.name for family in beside.values() for reading in family}
    alone = [reading for reading in readings if reading.name not in shown]
    return [*beside.values(), *([alone] if alone else [])]


def _kind(reading: Reading) -> Any:
    return reading.trained.get("quantizer", {}).get("kind")


def _further(plain: Reading, aligned: Reading) -> list[str]:
    """In what else than alignment two readings differ: `tokenizer` params, then the reading's own."""
    told = []
    for name, of in (("tokenizer", _tokenizer_params), ("read", _reading_params)):
        a, b = of(plain), of(aligned)
        told += [
            f"{name}.{key} ({_said(a.get(key))} and {_said(b.get(key))})"
            for key in dict.fromkeys([*a, *b])
            if a.get(key) != b.get(key)
        ]
    return told


def _tokenizer_params(reading: Reading) -> dict[str, Any]:
    return _flat({key: value for key, value in reading.trained.items() if key != "align"})


def _reading_params(reading: Reading) -> dict[str, Any]:
    return _flat(reading.config.model_dump(mode="json", by_alias=True, exclude={"tokenizer", "examples"}))


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


BETTER, WORSE, UNCLEAR, EQUAL = "better", "worse", "unclear", "equal"
"""What a change is."""


@dataclass(frozen=True)
class Judged:
    """A measure that is compared: its label, its name in `MEASURES`, and chance as text."""

    label: str
    name: str
    chance: str
    plain: Values
    aligned: Mapping[str, Values]


def alignment(readings: Sequence[Reading]) -> list[Block]:
    """A table for each aligned reading beside its plain one, and where to find what alignment did besides."""
    pairs = paired(readings)
    blocks: list[Block] = []
    lonely = [
        reading.label
        for reading in readings
        if reading.aligned and reading.name not in {pair.aligned.name for pair in pairs}
    ]
    if not any(reading.aligned for reading in readings):
        told = "Nothing to compare: no aligned tokenizer, one with align in its params, has been read."
        return [Absent(told)]
    if lonely:
        told = f"Without a plain tokenizer of the same kind that has been read: {', '.join(lonely)}."
        blocks.append(Absent(told))
    for pair in pairs:
        blocks += _compared(pair)
    if pairs:
        links = [
            ("quality of the reconstructions", "tokenizers"), ("time and memory of the training", "run"),
        ]  # fmt: skip
        blocks.append(Text("What alignment did to the pictures, and what it cost:", links))
    return blocks


def _compared(pair: Pair) -> list[Block]:
    plain, aligned = pair.plain, pair.aligned
    title = f"{aligned.label} beside {plain.label}"
    judged = list(_judged(pair))
    if not judged:
        told = "not both artifacts are in this checkout, or they hold no measure of the same images"
        return [Absent(f"{title}: {told}. Run: dvc pull, or dvc repro read")]
    rows, verdicts = [], []
    for item in judged:
        row = [
            Cell(item.label, _unit(item.name)),
            Cell(item.chance),
            cell(item.name, plain.interval(item.plain)),
        ]
        for reader in aligned.readers:
            values = item.aligned.get(reader)
            row.append(cell(item.name, aligned.interval(values)) if values else Cell("–"))
            found = aligned.difference(values, item.plain)
            if found is None:
                row += [Cell("–"), Cell("other images" if values else "–")]
                continue
            said = verdict(item.name, found)
            row += [change(item.name, found), said]
            if reader == "fresh":
                verdicts.append(said.text)
        rows.append(row)
    columns = [
        Column("measure", numeric=False),
        Column("chance", f"of {plain.label}"),
        Column(plain.label, "plain, fresh heads"),
    ]
    for reader in aligned.readers:
        columns += [
            Column(aligned.label, f"{reader} heads"), Column("change", "from plain"), Column("", numeric=False),
        ]  # fmt: skip
    counts = [(word, verdicts.count(word)) for word in (BETTER, WORSE, UNCLEAR, EQUAL)]
    told = ", ".join(f"{count} {word}" for word, count in counts if count)
    lead = f"{title}, by fresh heads: of {len(verdicts)} measures {told}."
    if not verdicts:
        lead = f"{title}: read on other images, so that no change is told."
    if pair.further:
        lead += f" The two differ in more than alignment: {'; '.join(pair.further)}."
    fresh = aligned.config.align.max_tokens
    if (own := (aligned.trained.get("align") or {}).get("max_tokens", fresh)) != fresh:
        lead += f" Own heads read {own} tokens of a caption, fresh ones {fresh}, so that other words may be masked."
    note = (
        "Change: the mean of the differences on each image, with its 95 % bootstrap interval; unclear where that holds "
        "0, equal where no image differs. Of twenty such verdicts about one comes from the draw of images alone. Own "
        "heads stand beside the plain tokenizer's fresh ones, as it has none of its own."
    )
    return [Text(lead), Table(title, columns, rows, note)]


def _judged(pair: Pair) -> Iterator[Judged]:
    """The measures that the plain reading has for images, in the order of the metrics."""
    metrics = pair.plain.metrics["fresh"]

    def of(label: str, name: str, key: str, chance: str) -> Iterator[Judged]:
        base = pair.plain.values.get(("fresh", key))
        own = {reader: values for (reader, k), values in pair.aligned.values.items() if k == key}
        if base and own:
            yield Judged(label, name, chance, base, own)

    for count in pair.plain.config.masked_counts:
        part, words = f"masked_{count}", "one masked word" if count == 1 else f"{count} masked words"
        if part in metrics:
            yield from of(f"{words}: recall@1", "masked_recall", f"{part}.recall",
                          cell("masked_recall", metrics[part]["chance"]).text)  # fmt: skip
            gain = {r: v for r in pair.aligned.readers if (v := pair.aligned.gain(r, part))}
            base = pair.plain.gain("fresh", part)
            if base and gain:
                yield Judged(
                    f"{words}: the codes' part", "masked_gain", cell("masked_gain", 0.0).text, base, gain
                )
    for way, said in DIRECTIONS.items():
        for rank in RANKS if way in metrics else ():
            chance = cell(rank, metrics[way][f"chance_{rank}"]).text
            yield from of(f"{said}: {MEASURES[rank].label}", rank, f"{way}.{rank}", chance)
    for kind, said in COSINES.items():
        if kind in metrics.get("similarity", {}):
            chance = cell("similarity_chance", metrics["similarity"][kind]["chance"]["mean"]).text
            yield from of(f"words and {said}: MSE", "similarity_mse", f"similarity.{kind}", chance)


def _unit(name: str) -> str:
    found = MEASURES[name]
    return ", ".join(part for part in (found.unit, found.better) if part)


def verdict(name: str, found: Mapping[str, float]) -> Cell:
    """Whether a change `{mean, low, high}` is one for the better; the measure says which way that is."""
    sign = 1 if MEASURES[name].better == HIGHER else -1
    low, high = sorted((sign * found["low"], sign * found["high"]))
    if low == high == 0:
        return Cell(EQUAL)
    if low > 0:
        return Cell(BETTER, tone="good")
    return Cell(WORSE, tone="bad") if high < 0 else Cell(UNCLEAR)
