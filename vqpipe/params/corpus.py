"""Params of the caption corpus that `vocabulary` and `graph` read: a dataset's, or text of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vqpipe.params.base import Params


class DatasetCorpus(Params):
    """The captions of a published dataset, split by split."""

    kind: Literal["dataset"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """Folder of the dataset artifact."""


class CocoCorpus(Params):
    """The captions of a COCO captions json; no image is needed."""

    kind: Literal["coco"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """The captions json."""


class TextCorpus(Params):
    """A text file with one caption a line."""

    kind: Literal["text"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """The text file, UTF-8."""


class TsvCorpus(Params):
    """A tab-separated file with one caption a line."""

    kind: Literal["tsv"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """The file, UTF-8, no quoting."""
    caption_column: int = Field(ge=0)
    """Column of the caption, from 0."""
    id_column: int | None = Field(default=None, ge=0)
    """Column of the id, from 0; null: the line number."""
    num_header_lines: int = Field(ge=0)
    """Lines to skip at the start."""


class ParquetCorpus(Params):
    """A Parquet file, or a folder of them, with a caption column (strings, or lists of strings)."""

    kind: Literal["parquet"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """The file, or a folder whose `*.parquet` files are read in name order."""
    caption_column: str = Field(min_length=1)
    """Name of the caption column."""
    id_column: str | None = None
    """Name of the id column; null: the row number."""


CorpusParams = Annotated[
    DatasetCorpus | CocoCorpus | TextCorpus | TsvCorpus | ParquetCorpus, Field(discriminator="kind")
]
