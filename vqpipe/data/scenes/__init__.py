"""The embedded data set `scenes`: pictures of things in places, rendered from a grammar whose statistics are
known.

`compose` says what is in an image, `draw` makes it visible, `render` yields whole records. An image depends
on the seed, its split and its index alone. `truth_table` is what the modifying graph is checked against.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from vqpipe.data.records import Record, Thing
from vqpipe.data.scenes.caption import Pair
from vqpipe.data.scenes.drawing import SEGMENTS, Drawing, draw
from vqpipe.data.scenes.language import describe
from vqpipe.data.scenes.layout import Scene, lay_out
from vqpipe.data.scenes.places import PLACES_BUILT
from vqpipe.data.scenes.questions import ask, refer
from vqpipe.data.scenes.statistics import NOUNS, probability
from vqpipe.data.scenes.words import KINDS
from vqpipe.errors import DataError
from vqpipe.params.scenes import ScenesSource
from vqpipe.runtime.seeds import python_rng

__all__ = ["CLASSES", "SEGMENTS", "SPLITS", "Drawing", "Scene", "compose", "draw", "num_images", "render",
           "said_pairs", "truth_table"]  # fmt: skip

CLASSES: Final[tuple[str, ...]] = tuple(PLACES_BUILT)
"""Class names by index: an image's class is its place."""
SPLITS: Final[tuple[str, ...]] = ("train", "validation", "test")


def num_images(config: ScenesSource, split: str) -> int:
    """Images in a split.

    Raises:
        DataError: there is no such split.
    """
    if split not in SPLITS:
        raise DataError("scenes has no such split", found=split, choices=SPLITS)
    return {"train": config.num_train, "validation": config.num_validation, "test": config.num_test}[split]


def compose(config: ScenesSource, split: str, index: int) -> Scene:
    """What is in one image and what its captions say, without drawing it."""
    image_id = f"scenes-{split}-{index:06d}"
    scene = lay_out(image_id, python_rng(config.seed, "scenes", split, index), config.max_objects)
    words = python_rng(config.seed, "scenes", split, index, "captions")
    return replace(scene, captions=describe(scene, words, config.max_captions))


def said_pairs(scene: Scene) -> tuple[Pair, ...]:
    """The (adjective, noun) pairs that a scene's captions say attributively, as often as they say them."""
    return tuple(pair for caption in scene.captions for pair in caption.pairs)


def render(config: ScenesSource, split: str, start: int, stop: int) -> Iterator[Record]:
    """Render the images `start` to `stop` (not included) of a split.

    Raises:
        DataError: there is no such split, or it has fewer images.
    """
    total = num_images(config, split)
    if not 0 <= start <= stop <= total:
        raise DataError(
            f"scenes: {split} has no such images", found=f"{start} to {stop}", expected=f"within 0 to {total}"
        )
    for index in range(start, stop):
        scene = compose(config, split, index)
        yield _record(config, split, index, scene, draw(scene, config.resolution, config.supersample))


def _record(config: ScenesSource, split: str, index: int, scene: Scene, drawing: Drawing) -> Record:
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
        segmentation=drawing.segmentation,
    )  # fmt: skip


def truth_table(config: ScenesSource) -> list[dict[str, object]]:
    """The rows of the TRUTH table: every pair that can occur, its probability, and how often captions say it.

    `probability` is the chance that one instance of the noun has the adjective. Nothing is drawn for this; it
    takes about half a millisecond an image.
    """
    said = {
        split: Counter(
            pair
            for index in range(num_images(config, split))
            for pair in said_pairs(compose(config, split, index))
        )
        for split in SPLITS
    }
    adjectives = sorted(word for words in KINDS.values() for word in words)
    return [
        {
            "adjective": adjective, "noun": noun, "probability": chance,
            **{f"said_{split}": said[split][adjective, noun] for split in SPLITS},
        }
        for adjective in adjectives
        for noun in sorted(NOUNS)
        if (chance := probability(adjective, noun)) > 0.0
    ]  # fmt: skip
