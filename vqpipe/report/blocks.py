"""What a report page is made of. Sections build blocks from data; the template alone turns them into HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text, and links (label, anchor) to parts of the page after it."""

    text: str
    links: Sequence[tuple[str, str]] = ()
    kind: str = "text"


@dataclass(frozen=True)
class Absent:
    """Says that an input of this part is not there, and how to get it."""

    text: str
    kind: str = "absent"


@dataclass(frozen=True)
class Column:
    """A table column: its name, its unit, and a note such as which direction is better."""

    name: str
    unit: str = ""
    note: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """A table cell: the value as text, and small print under it such as an interval. `tone` is `good` or `bad` for
    a verdict that is coloured, else empty."""

    text: str
    small: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each row its header. `quiet`: indices of reference rows, set apart."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    quiet: frozenset[int] = frozenset()
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with its alternative text, caption, and size in pixels; `right` ones are marked."""

    uri: str
    alt: str
    width: int
    height: int
    caption: str = ""
    right: bool = False


@dataclass(frozen=True)
class Gallery:
    """Pictures that belong together, in groups that stay on one line; `compact` ones are small and many,
    `dense` ones fill rows of narrow columns, `even` ones are below each other in columns of a picture's width."""

    title: str
    groups: Sequence[tuple[str, Sequence[Picture]]]
    note: str = ""
    scale: Markup | None = None
    compact: bool = False
    dense: bool = False
    even: bool = False
    kind: str = "gallery"


@dataclass(frozen=True)
class Chart:
    """An inline SVG, with `legend` as (colour class, label)."""

    svg: Markup
    title: str


@dataclass(frozen=True)
class Charts:
    """Charts that share one legend."""

    title: str
    charts: Sequence[Chart]
    legend: Sequence[tuple[str, str]] = ()
    note: str = ""
    wide: bool = False
    kind: str = "charts"


@dataclass(frozen=True)
class Line:
    """A line of an answer: its text, a value, whether it is right (None where that is not judged), small print, and
    what was asked."""

    text: str
    value: str = ""
    right: bool | None = None
    small: str = ""
    asked: str = ""


@dataclass(frozen=True)
class Answer:
    """What one head predicts for an example: lines, pictures or a drawing, under its name."""

    title: str
    lines: Sequence[Line] = ()
    pictures: Sequence[Picture] = ()
    drawing: Markup | None = None
    note: str = ""


@dataclass(frozen=True)
class Example:
    """A text and a picture, with what is known of it, and rows of answers that are shown side by side."""

    text: str
    picture: Picture
    rows: Sequence[Sequence[Answer]]
    note: str = ""
    known: Answer | None = None


@dataclass(frozen=True)
class Examples:
    """Examples of one kind."""

    title: str
    items: Sequence[Example]
    note: str = ""
    scale: Markup | None = None
    kind: str = "examples"


@dataclass(frozen=True)
class Tree:
    """Nested mappings and lists, shown as an outline that folds."""

    title: str
    content: Any
    kind: str = "tree"


@dataclass(frozen=True)
class Terms:
    """A list of names with their explanations."""

    title: str
    items: Sequence[tuple[str, str]]
    kind: str = "terms"


@dataclass(frozen=True)
class Beside:
    """Blocks, and to the right of them another where the window is wide enough for both; else it follows them."""

    blocks: Sequence[Block]
    other: Block
    kind: str = "beside"


Block = Text | Absent | Table | Gallery | Charts | Examples | Tree | Terms | Beside


@dataclass(frozen=True)
class Section:
    """A part of the page; `subsections` are shown under their own headings."""

    anchor: str
    title: str
    blocks: Sequence[Block]
    subsections: Sequence[Section] = field(default_factory=tuple)
