"""The readings that the report shows, which plain one stands beside each aligned one, and paired differences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from vqpipe.report.inputs import Inputs

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
