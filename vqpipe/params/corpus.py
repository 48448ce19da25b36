"""Params of the caption corpus that `vocabulary` and `graph` read: a dataset's, or text of its own."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, field_validator

from vqpipe.params.base import Params


class DatasetCorpus(Params):
    """The captions of a published dataset, split by split."""

    kind: Literal["dataset"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """Folder of the dataset artifact."""


class FileCorpus(Params):
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


class CocoCorpus(FileCorpus):
    """The captions of COCO captions json; no image is needed. Plain or gzip; usual endings: .json, .json.gz."""

    kind: Literal["coco"]
    """Names this kind."""


class JsonLinesCorpus(FileCorpus):
    """One JSON value a line: an object, or just the caption. Plain or gzip; usual endings: .jsonl, .jsonl.gz."""

    kind: Literal["jsonl"]
    """Names this kind."""
    caption_field: str = Field(min_length=1)
    """Key of an object's caption, or of its list of captions."""
    id_field: str | None = None
    """Key of an object's id; null: the line number."""


class TextCorpus(FileCorpus):
    """Text with one caption a line, UTF-8. Plain or gzip; usual endings: .txt, .txt.gz."""

    kind: Literal["text"]
    """Names this kind."""


class TsvCorpus(FileCorpus):
    """Tab-separated lines, one caption each; UTF-8, no quoting. Plain or gzip; usual endings: .tsv, .tsv.gz."""

    kind: Literal["tsv"]
    """Names this kind."""
    caption_column: int = Field(ge=0)
    """Column of the caption, from 0."""
    id_column: int | None = Field(default=None, ge=0)
    """Column of the id, from 0; null: the line number."""
    num_header_lines: int = Field(ge=0)
    """Lines to skip at the start of each file."""


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


class ManyCorpora(Params):
    """Several corpora, read one after the other. An id gets its source's path in front: `coco/val.json:179765`."""

    kind: Literal["many"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """The folder that holds them all."""
    sources: list[OneCorpus] = Field(min_length=1)
    """The corpora; their paths are relative to the folder `path`."""

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
