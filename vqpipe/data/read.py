"""The splits of a dataset artifact, and the rows of a split in order; without torch, for stages that read captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES
from vqpipe.artifacts.tables import iter_batches
from vqpipe.errors import DataError


@dataclass(frozen=True)
class Split:
    """One split of a published dataset: its number of images, its shard files in order, and their SHA-256."""

    dataset: Path
    name: str
    num_images: int
    shards: tuple[Path, ...]
    digests: tuple[str, ...]
    facts: dict[str, Any]

    def batches(self, columns: Sequence[str] | None = None, rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """Stream the rows in order, in record batches of at most `rows` rows of IMAGES."""
        for shard in self.shards:
            yield from iter_batches(shard, IMAGES, columns, rows)


def open_split(dataset: Path, split: str) -> Split:
    """Find a split of a published dataset.

    Raises:
        ArtifactError: no dataset there, or a damaged one.
        DataError: no such split.
    """
    manifest = read_manifest(dataset, DATASET)
    splits = manifest.facts["splits"]
    if split not in splits:
        raise DataError(f"{dataset} has no split {split}", found=split, choices=splits)
    names = splits[split]["shards"]
    digests = tuple(str(manifest.files[name]["sha256"]) for name in names)
    shards = tuple(dataset / name for name in names)
    return Split(dataset, split, int(splits[split]["images"]), shards, digests, manifest.facts)
