"""What is asked about the images of a split: questions with answers, and expressions that refer to one object.

It is the one view of them for every data source. Letters: r side of the centre crops in pixels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vqpipe.data.read import open_split
from vqpipe.data.records import Question
from vqpipe.errors import DataError

Box = tuple[float, float, float, float]
"""Left, top, right and bottom as shares of the crop's side, in [0, 1]."""

OUTSIDE, NO_AREA, NO_THING = "box outside the crop", "box without area", "no such object"
"""Why an expression is left out."""
CLIPPED = 1e-4
"""Share of a box's area outside the crop from which on it counts as clipped."""
THIN = 1e-6
"""Part of the crop's side below which a box is too thin to have an area in float32."""


def questions_of(dataset: Path, split: str) -> list[list[Question]]:
    """The questions about each image of a split, in order.

    Raises:
        ArtifactError: no dataset there, or a damaged one.
        DataError: no question about any image.
    """
    found = [
        [Question(own["question"], own["answer"], own["kind"]) for own in row or ()]
        for batch in open_split(dataset, split).batches(["questions"])
        for row in batch.column(0).to_pylist()
    ]
    if not any(found):
        raise DataError(
            f"{dataset}, split {split}: no questions", found="images without questions and answers",
            expected="a data source with the column questions",
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class Expression:
    """A text that is true of one object of an image."""

    position: int
    """The image, by its place in the split."""
    text: str
    name: str
    """The object's name."""
    box: Box
    """Of the part of the object's box inside the crop."""
    clipped: bool = False
    """Whether the box reaches out of the crop, by more than rounding."""


@dataclass(frozen=True)
class Expressions:
    """The expressions of a split, in the order of its images."""

    found: list[Expression]
    left_out: Counter[str]
    """How many others there are, by reason."""


def expressions_of(dataset: Path, split: str, resolution: int) -> Expressions:
    """The expressions of a split whose objects are in the centre crops of its images.

    An object belongs to the crop where the centre of its box does, as in `things_of`; what reaches out is cut off.

    Args:
        dataset: folder of the dataset artifact.
        split: `train`, `validation` or `test`.
        resolution: r.

    Raises:
        ArtifactError: no dataset there, or a damaged one.
        DataError: no expression of any image that can be used.
    """
    found: list[Expression] = []
    left_out: Counter[str] = Counter()
    position = 0
    for batch in open_split(dataset, split).batches(["height", "width", "things", "referring"]):
        for row in batch.to_pylist():
            offsets = ((row["width"] - resolution) // 2, (row["height"] - resolution) // 2)
            things = row["things"] or ()
            for own in row["referring"] or ():
                if not 0 <= own["thing"] < len(things):
                    left_out[NO_THING] += 1
                    continue
                thing = things[own["thing"]]
                box = _in_crop(thing["box"], offsets, resolution)
                if isinstance(box, str):
                    left_out[box] += 1
                    continue
                (_, _, width, height), (left, top, right, bottom) = thing["box"], box
                inside = (right - left) * (bottom - top) * resolution**2
                clipped = inside < (1 - CLIPPED) * width * height
                found.append(Expression(position, own["text"], thing["name"], box, clipped))
            position += 1
    if not found:
        raise DataError(
            f"{dataset}, split {split}: no referring expressions with a box",
            found=", ".join(f"{count} with {reason}" for reason, count in left_out.items()) or "none",
            expected="a data source with the columns things and referring",
        )
    return Expressions(found, left_out)


def _in_crop(box: tuple[float, ...], offsets: tuple[int, int], side: int) -> Box | str:
    """The part of a box (x, y, width, height) inside the crop, or why there is none."""
    (x, y, width, height), (left, top) = box, offsets
    if not (width > 0 and height > 0):
        return NO_AREA
    x, y = x - left, y - top
    if not (0 <= x + width / 2 < side and 0 <= y + height / 2 < side):
        return OUTSIDE
    right, bottom = min(x + width, side), min(y + height, side)
    x, y = max(x, 0.0), max(y, 0.0)
    if min(right - x, bottom - y) < THIN * side:
        return NO_AREA
    return x / side, y / side, right / side, bottom / side
