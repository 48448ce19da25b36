"""The common form of every data source: one record per image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True, slots=True)
class Thing:
    """An object in an image.

    `box` is (x, y, width, height) in pixels of the record's image, `visible` the share of the object that is
    not hidden by others or by the frame, in [0, 1].
    """

    name: str
    box: tuple[float, float, float, float]
    adjectives: tuple[str, ...] = ()
    visible: float = 1.0


@dataclass(frozen=True, slots=True)
class Referring:
    """An expression that is true of exactly one object: `things[thing]`."""

    thing: int
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question with a one-word answer. `kind` is COCO-QA's: object, number, color or location."""

    question: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True)
class Record:
    """One image and what is known of it.

    `image` is uint8 RGB of shape (height, width, 3); `segmentation`, where there is one, uint8 of shape
    (height, width), 0 for the background. `label` is the class index, or None.
    """

    image_id: str
    image: UInt8[np.ndarray, "h w 3"]
    captions: tuple[str, ...] = ()
    label: int | None = None
    label_name: str | None = None
    things: tuple[Thing, ...] = ()
    referring: tuple[Referring, ...] = ()
    questions: tuple[Question, ...] = ()
    segmentation: UInt8[np.ndarray, "h w"] | None = None


@dataclass(frozen=True, slots=True)
class Bad:
    """An item of a source that was left out. `reason` is a short fixed word, `detail` what was seen.

    `annotations` is the number of captions and objects that it stands for, other than those of a lost image.
    """

    item: str
    reason: str
    detail: str
    annotations: int = 0
