"""The embedded `scenes`: pictures drawn from a grammar, so that the pipeline runs without any download."""

from __future__ import annotations

from collections.abc import Iterator

from vqpipe.data.adapters.base import CHUNK_ITEMS, Adapter, Chunk, Plan
from vqpipe.data.records import Bad, Record
from vqpipe.data.scenes import CLASSES, SEGMENTS, render, truth_table
from vqpipe.params.dataset import SplitName
from vqpipe.params.scenes import ScenesSource

LAYOUT = "nothing on disk: dataset.source.kind scenes draws its images"


def plan(source: ScenesSource, max_pixels: int) -> Plan:
    """Ranges of picture numbers per split, and the table of the true adjective-noun statistics."""
    counts: dict[SplitName, int] = {
        "train": source.num_train, "validation": source.num_validation, "test": source.num_test,
    }  # fmt: skip
    chunks = [
        Chunk(split, (start, min(start + CHUNK_ITEMS, count)))
        for split, count in counts.items()
        for start in range(0, count, CHUNK_ITEMS)
    ]
    return Plan(chunks, classes=CLASSES, categories=SEGMENTS[1:], truth=truth_table(source))


def load(source: ScenesSource, chunk: Chunk, max_pixels: int) -> Iterator[Record | Bad]:
    """Draw the pictures of a chunk."""
    start, stop = chunk.items
    yield from render(source, chunk.split, start, stop)


SCENES = Adapter(plan, load, LAYOUT)
