"""Params of the caption corpus that `vocabulary` and `graph` read: a dataset's, or text of its own."""

from __future__ import annotations

import codecs
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from vqpipe.params.base import Params


class Corpus(Params):
    """What all corpora share."""

    max_bad_fraction: float = Field(default=0.1, ge=0, le=1)
    """Highest share of the captions that may be unusable (damaged, empty, no text, without a letter, in another
    script or language) before `vocabulary` and `graph` fail, 0 to 1. A corpus that is known needs 0.01 or less."""


class DatasetCorpus(Corpus):
    """The captions of a published dataset, split by split."""

    kind: Literal["dataset"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """Folder of the dataset artifact."""


class FileCorpus(Corpus):
    """What the corpora that lie in files share."""

    path: str = Field(min_length=1)
    """The file, or a folder of files that are read in the order of their names."""
    files: str | None = Field(default=None, min_length=1)
    """Which files of the folder, such as `train-*.txt` or `**/*.txt`; null: those with the kind's usual ending."""

    @field_validator("files")
    @classmethod
    def _inside(cls, files: str | None) -> str | None:
        if files is not None and (PurePosixPath(files).is_absolute() or ".." in PurePosixPath(files).parts):
            raise ValueError("is a pattern of names within the folder path")
        return files


def known_encoding(encoding: str | None) -> str | None:
    """Refuse the name of an encoding that Python cannot decode, or null."""
    try:
        if encoding is not None:
            "".encode(encoding)
            codecs.getincrementaldecoder(encoding)
    except (LookupError, ValueError):
        raise ValueError("is not an encoding that Python knows, such as utf-8, cp1252 or shift_jis") from None
    return encoding


class EncodedCorpus(FileCorpus):
    """What the corpora share that lie in files of text. These may be plain, gzip, bzip2, xz or zstd: the usual
    endings are the kind's own, alone or with .gz, .bz2, .xz or .zst behind it."""

    encoding: str | None = None
    """Encoding of files without a byte order mark, such as `cp1252`, `latin-1`, `shift_jis`; null: UTF-8, or UTF-16
    or UTF-32 where the bytes say so, and anything else is an error. `utf-8` leaves out what is no UTF-8."""

    _known = field_validator("encoding")(known_encoding)


class CocoCorpus(EncodedCorpus):
    """The captions of COCO captions json, of Karpathy's split file (its training images), of a list of objects with
    `caption`, or of an object of lists of captions by image. No image is needed. Usual ending: .json."""

    kind: Literal["coco"]
    """Names this kind."""


class JsonLinesCorpus(EncodedCorpus):
    """One JSON value a line: an object, just the caption, or a list of these. Usual ending: .jsonl."""

    kind: Literal["jsonl"]
    """Names this kind."""
    caption_field: str = Field(min_length=1)
    """Key of an object's caption, or of its list of captions."""
    id_field: str | None = None
    """Key of an object's id; null: the line number."""


class TextCorpus(EncodedCorpus):
    """Text with one caption a line. Usual ending: .txt."""

    kind: Literal["text"]
    """Names this kind."""


class TsvCorpus(EncodedCorpus):
    """Rows of columns, one caption each: TSV or CSV. Usual endings: .tsv; .csv where there is no .tsv."""

    kind: Literal["tsv"]
    """Names this kind."""
    caption_column: Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)]
    """Column of the caption: its number from 0, or its name in the header."""
    id_column: Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)] | None = None
    """Column of the id, as `caption_column`; null: the line number."""
    num_header_lines: int | None = Field(default=None, ge=0)
    """Rows to skip at the start of each file, the last of which has the columns' names; null: 1 where a column is
    named, else 0."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """What is between columns; null: a comma in files that end in .csv, a tab in others."""
    quotes: bool = True
    """Whether "…" around a whole cell are its quotes, as CSV has them (within them, line ends and delimiters belong
    to the cell, and "" is one quote). Quotes that are not closed before a delimiter or a line end are text in any
    case. false: all quotes are text."""

    @field_validator("delimiter")
    @classmethod
    def _delimits(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and delimiter in '"\r\n':
            raise ValueError("is no quote and no line end")
        return delimiter

    @model_validator(mode="after")
    def _header(self) -> Self:
        if self.num_header_lines == 0 and (
            isinstance(self.caption_column, str) or isinstance(self.id_column, str)
        ):
            raise ValueError(
                "num_header_lines: a column's name needs a header; name the column by its number"
            )
        return self

    def header_rows(self) -> int:
        """Rows before the first caption's."""
        if self.num_header_lines is not None:
            return self.num_header_lines
        return int(isinstance(self.caption_column, str) or isinstance(self.id_column, str))


class ParquetCorpus(FileCorpus):
    """Parquet with a caption column (strings, or lists of strings). Usual ending: .parquet."""

    kind: Literal["parquet"]
    """Names this kind."""
    caption_column: str = Field(min_length=1)
    """Name of the caption column."""
    id_column: str | None = None
    """Name of the id column; null: the row number."""


CorpusOfFiles = CocoCorpus | JsonLinesCorpus | TextCorpus | TsvCorpus | ParquetCorpus
"""The kinds that are a file, or a folder of files."""

OneCorpus = Annotated[DatasetCorpus | CorpusOfFiles, Field(discriminator="kind")]
"""A corpus of one kind."""


class ManyCorpora(Corpus):
    """Several corpora, read one after the other. An id gets its source's path in front: `coco/val.json:179765`."""

    kind: Literal["many"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """The folder that holds them all."""
    sources: list[OneCorpus] = Field(min_length=1)
    """The corpora; their paths are relative to the folder `path`. Each keeps to its own `max_bad_fraction`, as far as
    captions are unreadable, and all together to that of the whole."""

    @field_validator("sources")
    @classmethod
    def _within(cls, sources: list[OneCorpus]) -> list[OneCorpus]:
        for source in sources:
            path = PurePosixPath(source.path)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{source.path} does not lie in the folder that corpus.path names")
        return sources

    def labels(self) -> list[str]:
        """What stands in front of each source's ids: its path, numbered where a path comes again."""
        paths = [source.path for source in self.sources]
        before = [paths[:at].count(path) for at, path in enumerate(paths)]
        return [f"{path}#{times + 1}" if times else path for path, times in zip(paths, before, strict=True)]


CorpusParams = Annotated[DatasetCorpus | CorpusOfFiles | ManyCorpora, Field(discriminator="kind")]
