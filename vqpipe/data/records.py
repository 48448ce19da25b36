"""The common form of every data source: one record per image or caption, or why an item was left out.

What was left out goes into the quarantine table of the dataset, which has a bounded length; counts are of everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from vqpipe.artifacts.specs.dataset import QUARANTINE
from vqpipe.artifacts.tables import to_table
from vqpipe.errors import printable

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

Pixels = UInt8[np.ndarray, "h w 3"]


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
    """One image and what is known of it, or captions alone.

    `image` is uint8 RGB of shape (height, width, 3); or, where it is still to be decoded, its file or the file's
    bytes; or None for captions alone. `label` is the class index, or None; where only `label_name` is given, an
    adapter's default `plan` numbers the classes in the order in which they first appear. `segmentation`, where there
    is one, is uint8 of shape (height, width), 0 for the background. `split` is the split that the source states; the
    source's `holdout`, if it has one, divides the images of `train` further.
    """

    image_id: str
    image: Pixels | Path | bytes | None = None
    captions: tuple[str, ...] = ()
    label: int | None = None
    label_name: str | None = None
    things: tuple[Thing, ...] = ()
    referring: tuple[Referring, ...] = ()
    questions: tuple[Question, ...] = ()
    segmentation: UInt8[np.ndarray, "h w"] | None = None
    split: SplitName = "train"

    @property
    def pixels(self) -> Pixels:
        """The image of a record that is decoded."""
        assert isinstance(self.image, np.ndarray), f"{self.image_id} is not decoded"
        return self.image


@dataclass(frozen=True, slots=True)
class Bad:
    """An item of a source that was left out. `reason` is a word of `REASONS`, `detail` is what was found.

    `annotations` is the number of captions and objects that were lost with it, other than those of a lost image.
    """

    item: str
    reason: str
    detail: str
    annotations: int = 0


IMAGE_REASONS = {
    "empty_file": "the file has no bytes",
    "undecodable": "not an image of a known format, or damaged",
    "truncated": "the file ends before the image does",
    "too_many_pixels": "above max_pixels, as it is (not decoded) or scaled up",
    "too_many_bytes": "far larger than an image of max_pixels can be; not read",
    "unsupported_pixels": "pixel values without a known range (floating point, 32-bit)",
    "too_small": "shorter side below resize.short_side, and too_small is quarantine",
    "missing_file": "listed, but there is no such file",
    "unreadable": "the file system refused to read it",
    "unsafe_path": "absolute, or leads out of its folder, or a link out of the source",
    "tar_link": "a link inside a tar that leads to none of its images",
    "special_file": "a pipe, socket or device with an image's name; not opened",
    "tar_special": "a device or pipe inside a tar",
    "size_mismatch": "the image's shape is not the one its annotations were made for",
    "no_caption": "no usable caption, though the split has captions",
    "no_class": "is in no class folder",
    "duplicate_id": "an earlier image has this id",
}
"""Reasons that cost an image; these count towards `max_bad_fraction`."""

SIDE_REASONS = {
    "empty_caption": "a caption without a visible character; the image keeps its others",
    "caption_not_utf8": "a caption with bytes that are not UTF-8; the image keeps its others",
    "caption_not_text": "a caption that is not a string; the image keeps its others",
    "orphan_annotation": "annotations of an image that is not listed",
    "bad_annotation": "an annotation without the fields it needs",
    "duplicate_annotation": "an annotation that is listed again, with the same id and content",
    "clipped_box": "a box that reached out of its image by more than a pixel; the part inside is kept",
    "other_file": "a file whose name is not an image's",
    "hidden": "a file or folder whose name begins with a dot; a folder's content is not counted",
    "duplicate_path": "another path or another id of a folder or image that is listed, such as a link",
}
"""Reasons that cost no image; they are counted and listed, but are not part of the bad fraction."""

REASONS = {**IMAGE_REASONS, **SIDE_REASONS}
"""Why an item was left out, by the word in the quarantine table."""


def count_by_reason(bad: Iterable[Bad]) -> dict[str, int]:
    """How many items were left out by reason, in the order of the reasons: the form of every command's output."""
    return dict(sorted(Counter(entry.reason for entry in bad).items()))


def file_ending(name: str) -> str:
    """The ending of a file name in lower case, such as `.heic`; `no ending` where there is none."""
    return PurePosixPath(printable(name)).suffix.lower() or "no ending"


def describe(bad: Iterable[Bad]) -> str:
    """What was left out, in one line: files of other endings by ending, other items by reason, an example each."""
    groups: dict[str, list[Any]] = {}
    for entry in bad:
        what = file_ending(entry.item) + " files" if entry.reason == "other_file" else entry.reason
        groups.setdefault(what, [0, printable(entry.item)])[0] += 1
    listed = sorted(groups.items(), key=lambda group: (-group[1][0], group[0]))
    shown = [f"{count:,} {what} (such as {example})" for what, (count, example) in listed[:8]]
    return "; ".join(shown) + ("; …" if len(listed) > 8 else "") or "nothing"


MAX_ROWS = 10_000
"""Rows of a quarantine table. A source of a million other files would make one as long as the dataset's."""
MAX_ITEM = 4096
"""Characters of a row's item that are kept, the longest path of a file system."""
MAX_DETAIL = 1000
"""Characters of a row's detail that are kept."""
LEFT_OUT = "rows_left_out"
"""The table's fact with the rows that it lacks, as split -> reason -> number; absent where it has all."""


def quarantine_table(bad: Sequence[tuple[str, Bad]]) -> tuple[pa.Table, dict[str, Any]]:
    """The table of (split, item) pairs, and its facts.

    Above `MAX_ROWS` each reason keeps as many of its first rows as every other one may; so a rare reason keeps all.
    """
    quota = _quota(Counter(entry.reason for _, entry in bad))
    rows: list[dict[str, str]] = []
    seen: Counter[str] = Counter()
    left_out: dict[str, Counter[str]] = {}
    for split, entry in bad:
        seen[entry.reason] += 1
        if seen[entry.reason] > quota:
            left_out.setdefault(split, Counter())[entry.reason] += 1
            continue
        item, detail = entry.item[:MAX_ITEM], printable(entry.detail)[:MAX_DETAIL]
        rows.append({"split": split, "item": item, "reason": entry.reason, "detail": detail})
    lacking = {split: dict(sorted(counts.items())) for split, counts in sorted(left_out.items())}
    return to_table(QUARANTINE, rows), {LEFT_OUT: lacking} if lacking else {}


def rows_left_out(facts: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """How many rows a table lacks, by (split, reason), from its facts."""
    return Counter(
        {
            (split, reason): count
            for split, counts in facts.get(LEFT_OUT, {}).items()
            for reason, count in counts.items()
        }
    )


def _quota(counts: Mapping[str, int]) -> int:
    """The most rows that each reason may have, so that all have `MAX_ROWS` at most."""
    left, quota = MAX_ROWS, MAX_ROWS
    ordered = sorted(counts.values())
    for at, count in enumerate(ordered):
        quota = left // (len(ordered) - at)
        if count > quota:
            return quota
        left -= count
    return MAX_ROWS
