"""The embedded source `scenes`: pictures of objects in places, rendered from a grammar whose statistics are known.

The pipeline runs on it without any download. `compose` decides what is in an image, `draw` makes it visible, `render`
yields whole records. An image depends on the seed, its split and its index alone. `truth_table` is what the modifying
graph is compared with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from vqpipe.data.adapters.base import CHUNK_ITEMS, Adapter, Chunk, Plan
from vqpipe.data.records import SPLITS, Bad, Record, SplitName, Thing
from vqpipe.data.scenes.drawing import SEGMENTS, Drawing, draw
from vqpipe.data.scenes.grammar import KINDS, NOUNS, probability
from vqpipe.data.scenes.language import ask, describe, refer
from vqpipe.data.scenes.layout import PLACES_BUILT, Pair, Scene, lay_out
from vqpipe.errors import DataError
from vqpipe.params.base import Params
from vqpipe.runtime.seeds import python_rng

CLASSES: Final[tuple[str, ...]] = tuple(PLACES_BUILT)
"""Class names by index: an image's class is its place."""


class ScenesSource(Params):
    """The `scenes` source. Its raw data are the code of the renderer."""

    kind: Literal["scenes"]
    """Selects this source."""
    path: Literal["artifacts/code/dataset.txt"]
    """The list of the code that renders the scenes: what this source is made from. DVC alone reads it."""
    resolution: int = Field(ge=32, le=1024)
    """Height and width of the pictures, in pixels. The geometry does not depend on it."""
    supersample: int = Field(ge=1, le=8)
    """Samples per pixel and axis for the edges of objects; 4 gives 17 levels of cover along a straight edge."""
    num_train: int = Field(ge=0)
    """Images in the train split."""
    num_validation: int = Field(ge=0)
    """Images in the validation split."""
    num_test: int = Field(ge=0)
    """Images in the test split."""
    seed: int = Field(ge=0)
    """An image depends on this seed, its split and its index in the split, and on nothing else."""
    max_objects: int = Field(ge=1, le=4)
    """Most objects in a picture; each has at least one."""
    max_captions: int = Field(ge=3, le=5)
    """Most captions per picture; each has at least three."""

    def num_images(self, split: str) -> int:
        """Images in a split.

        Raises:
            DataError: there is no such split.
        """
        if split not in SPLITS:
            raise DataError("scenes has no such split", found=split, choices=SPLITS)
        return {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}[split]


class Scenes(Adapter):
    """Pictures with captions, classes, objects, questions and a segmentation, drawn on demand."""

    kind = "scenes"
    Params = ScenesSource
    layout = "nothing on disk: dataset.source.kind scenes draws its images"
    fill_split = "raise its num_ in dataset.source"

    def inputs(self, source: ScenesSource) -> list[Path]:
        """No file: the images follow from the params and the code."""
        return []

    def records(self, source: ScenesSource) -> Iterator[Record | Bad]:
        """All pictures, split by split."""
        for split in SPLITS:
            yield from render(source, split, 0, source.num_images(split))

    def plan(self, source: ScenesSource, max_pixels: int) -> Plan:
        """Ranges of picture numbers per split, and the table of the true adjective-noun statistics."""
        chunks = [
            Chunk(split, (start, min(start + CHUNK_ITEMS, source.num_images(split))))
            for split in SPLITS
            for start in range(0, source.num_images(split), CHUNK_ITEMS)
        ]
        return Plan(chunks, classes=CLASSES, categories=SEGMENTS[1:], truth=truth_table(source))

    def load(self, source: ScenesSource, chunk: Chunk, max_pixels: int) -> Iterator[Record | Bad]:
        """Draw the pictures of a chunk."""
        start, stop = chunk.items
        yield from render(source, chunk.split, start, stop)


def compose(config: ScenesSource, split: str, index: int) -> Scene:
    """What is in one image and what its captions state, without drawing it."""
    image_id = f"scenes-{split}-{index:06d}"
    scene = lay_out(image_id, python_rng(config.seed, "scenes", split, index), config.max_objects)
    words = python_rng(config.seed, "scenes", split, index, "captions")
    return replace(scene, captions=describe(scene, words, config.max_captions))


def stated_pairs(scene: Scene) -> tuple[Pair, ...]:
    """The (adjective, noun) pairs that a scene's captions state attributively, as often as they state them."""
    return tuple(pair for caption in scene.captions for pair in caption.pairs)


def render(config: ScenesSource, split: SplitName, start: int, stop: int) -> Iterator[Record]:
    """Render the images `start` to `stop` (not included) of a split.

    Raises:
        DataError: there is no such split, or it has fewer images.
    """
    total = config.num_images(split)
    if not 0 <= start <= stop <= total:
        raise DataError(
            f"scenes: {split} has no such images", found=f"{start} to {stop}", expected=f"within 0 to {total}"
        )
    for index in range(start, stop):
        scene = compose(config, split, index)
        yield _record(config, split, index, scene, draw(scene, config.resolution, config.supersample))


def _record(config: ScenesSource, split: SplitName, index: int, scene: Scene, drawing: Drawing) -> Record:
    asked = python_rng(config.seed, "scenes", split, index, "questions")
    things = tuple(
        Thing(item.noun, box, item.words, visible)
        for item, box, visible in zip(scene.items, drawing.boxes, drawing.visible, strict=True)
    )
    return Record(
        scene.image_id, drawing.image,
        captions=tuple(caption.text for caption in scene.captions),
        label=CLASSES.index(scene.place), label_name=scene.place,
        things=things, referring=refer(scene, asked), questions=ask(scene, asked),
        segmentation=drawing.segmentation, split=split,
    )  # fmt: skip


def truth_table(config: ScenesSource) -> list[dict[str, object]]:
    """The rows of the TRUTH table: every pair that can occur, its probability, and how often captions state it.

    `probability` is the chance that one instance of the noun has the adjective. Nothing is drawn for this; it
    takes about half a millisecond an image.
    """
    stated = {
        split: Counter(
            pair
            for index in range(config.num_images(split))
            for pair in stated_pairs(compose(config, split, index))
        )
        for split in SPLITS
    }
    adjectives = sorted(word for words in KINDS.values() for word in words)
    return [
        {
            "adjective": adjective, "noun": noun, "probability": chance,
            **{f"said_{split}": stated[split][adjective, noun] for split in SPLITS},
        }
        for adjective in adjectives
        for noun in sorted(NOUNS)
        if (chance := probability(adjective, noun)) > 0.0
    ]  # fmt: skip
