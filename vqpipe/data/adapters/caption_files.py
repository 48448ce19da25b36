"""Captions alone: lines of text, JSON lines, tables and Parquet, and the captions of a published dataset.

Files are read in a stream of bounded memory. What has no id of its own gets the number of its line or row, with the
file in front where the source is a folder of text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from vqpipe.data.adapters.base import Adapter, Corpus, names_in, need_inside, shown
from vqpipe.data.captions import Unusable, identifier
from vqpipe.data.encodings import known_encoding
from vqpipe.data.read import open_split
from vqpipe.data.structured_files import cells_under_header, rows, text_rows
from vqpipe.data.text_files import MAX_JSON_LINE, PACKED, lines
from vqpipe.data.walk import is_inside
from vqpipe.errors import DataError, printable

ENCODING_OPTION = "corpus.encoding"
"""The field that names the encoding of text, for messages."""
RawCaption = tuple[str, object]
"""(id, caption as it is in the source)."""


class FileCorpus(Corpus):
    """What the corpora of files share."""

    path: str = Field(min_length=1)
    """The file, or a folder of files that are read in the order of their names."""
    files: str | None = Field(default=None, min_length=1)
    """Which files of the folder, such as `train-*.txt` or `**/*.txt`; null: those with the kind's usual ending."""

    @field_validator("files")
    @classmethod
    def _inside(cls, files: str | None) -> str | None:
        if files is not None and not is_inside(files):
            raise ValueError("is a pattern of names within the folder path")
        return files


class EncodedCorpus(FileCorpus):
    """What the corpora of text files share. The files may be plain, gzip, bzip2, xz or zstd: the usual endings are the
    kind's own, alone or followed by .gz, .bz2, .xz or .zst."""

    encoding: str | None = None
    """Encoding of files without a byte order mark, such as `cp1252`, `latin-1`, `shift_jis`; null: UTF-8, or UTF-16
    or UTF-32 where the bytes show it, and anything else is an error. `utf-8` leaves out what is not UTF-8."""

    _known = field_validator("encoding")(known_encoding)


def packed_endings(*endings: str) -> tuple[str, ...]:
    """Endings of file names, each alone and followed by .gz, .bz2, .xz or .zst."""
    return tuple(ending + packed for ending in endings for packed in PACKED)


def corpus_files(source: FileCorpus, adapter: Adapter) -> list[tuple[str, Path]]:
    """The files of a corpus in the order of their names, each with the prefix of its line numbers.

    The prefix is empty for a single file and `name:` for one of a folder. Hidden files are skipped.

    Raises:
        DataError: nothing at the path, no such file in the folder, or a link in it that leads out.
    """
    path, expected = Path(source.path), adapter.caption_layout or adapter.layout
    if path.is_file() and source.files is None:
        return [("", path)]
    if not path.is_dir():
        raise DataError(
            f"corpus.path: {path} is not a {'folder' if source.files else 'file or folder'}",
            found="a file" if path.is_file() else "nothing",
            expected=f"the folder of corpus.files = {source.files}"
            if source.files
            else expected.splitlines(),
            run="put it there, or set corpus.path in params.yaml",
        )
    patterns = [source.files] if source.files else [f"*{ending}" for ending in adapter.endings]
    found = _matching(path, patterns)
    if not found and not source.files:
        found = _matching(path, [f"*{ending}" for ending in adapter.further_endings])
    if not found:
        raise DataError(
            f"corpus: {path} has no {' and no '.join(patterns)}",
            found=shown(names_in(path), 5, "an empty folder"),
            expected=f"{expected}; corpus.files names files of another ending".splitlines(),
        )
    for file in found.values():
        need_inside(path, file)
    return [(f"{printable(name)}:", found[name]) for name in sorted(found)]


def _matching(folder: Path, patterns: list[str]) -> dict[str, Path]:
    return {
        file.relative_to(folder).as_posix(): file
        for pattern in patterns
        for file in folder.glob(pattern)
        if file.is_file() and not file.name.startswith(".")
    }


def id_or_place(value: object, place: str, noted: Unusable) -> str:
    """The text of an id; where there is none, the place in the file, which is counted."""
    text = identifier(value)
    noted.without_id += text is None
    return place if text is None else text


class DatasetCorpus(Corpus):
    """The captions of a published dataset's training split."""

    kind: Literal["dataset"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """Folder of the dataset artifact."""


class PublishedDataset(Adapter):
    """The captions of a dataset artifact; captions of one image share its id."""

    kind = "dataset"
    Params = DatasetCorpus
    gives = ("captions",)
    layout = "a dataset whose training images have captions; for a source without any, name a corpus of another kind"

    def captions(self, source: DatasetCorpus, noted: Unusable) -> Iterator[RawCaption]:
        """Stream the captions of the training images."""
        for batch in open_split(Path(source.path), "train").batches(["image_id", "captions"]):
            for image_id, captions in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield from ((image_id, caption) for caption in captions or [])


class CaptionFiles(Adapter):
    """What the adapters of files of captions share: the files are read one by one, in the order of their names."""

    gives = ("captions",)
    may_be_pairs = True

    def captions(self, source: Any, noted: Unusable) -> Iterator[RawCaption]:
        """The captions of all files."""
        for label, file in corpus_files(source, self):
            yield from self.read_file(source, file, label, noted)

    def read_file(self, source: Any, file: Path, label: str, noted: Unusable) -> Iterator[RawCaption]:
        """The captions of one file; `label` is the prefix of its line numbers."""
        raise NotImplementedError


class TextCorpus(EncodedCorpus):
    """Text with one caption a line. Usual ending: .txt."""

    kind: Literal["text"]
    """Names this kind."""


class TextLines(CaptionFiles):
    """Text with one caption a line."""

    kind = "text"
    Params = TextCorpus
    layout = "text, one caption a line"
    endings = packed_endings(".txt")

    def read_file(self, source: TextCorpus, file: Path, label: str, noted: Unusable) -> Iterator[RawCaption]:
        """The lines of a file."""
        for number, line in lines(file, source.encoding, ENCODING_OPTION):
            yield f"{label}{number}", line


class JsonLinesCorpus(EncodedCorpus):
    """One JSON value a line: an object, just the caption, or a list of these. Usual ending: .jsonl."""

    kind: Literal["jsonl"]
    """Names this kind."""
    caption_field: str = Field(min_length=1)
    """Key of an object's caption, or of its list of captions."""
    id_field: str | None = None
    """Key of an object's id; null: the line number."""


class JsonLines(CaptionFiles):
    """One JSON value a line."""

    kind = "jsonl"
    Params = JsonLinesCorpus
    layout = 'lines such as {"caption": "a red bus"}; the key is corpus.caption_field'
    endings = packed_endings(".jsonl")

    def read_file(
        self, source: JsonLinesCorpus, file: Path, label: str, noted: Unusable
    ) -> Iterator[RawCaption]:
        """The captions of the lines of a file."""
        for number, line in lines(file, source.encoding, ENCODING_OPTION, json=True):
            value = _json(line)
            for one in value if isinstance(value, list) else [value]:
                caption_id = f"{label}{number}"
                if isinstance(one, dict):
                    if source.id_field is not None:
                        caption_id = id_or_place(one.get(source.id_field), f"{label}#{number}", noted)
                    if source.caption_field not in one:
                        noted.hint = f"the keys of line {number} are {shown([*map(str, one)], 8, 'none')}"
                    one = one.get(source.caption_field)
                elif isinstance(one, _Damaged) and one.text.lstrip(" ")[:1] in ("[", "{"):
                    noted.hint = (
                        f"line {number} is not a whole JSON value; kind: coco reads JSON over several lines"
                    )
                yield from ((caption_id, text) for text in (one if isinstance(one, list) else [one]))


class _Damaged(NamedTuple):
    """A line that is not JSON."""

    text: str

    def __str__(self) -> str:
        return f"not JSON: {self.text[:60]}"


def _json(line: bytes) -> object:
    """The value of a line; an empty line is an empty caption."""
    text = line.decode("utf-8", "surrogateescape")
    try:
        return json.loads(text) if text.strip() else ""
    except (ValueError, RecursionError):
        return _begun(text) if len(line) >= MAX_JSON_LINE else _Damaged(text)


def _begun(text: str) -> object:
    """The value of a line that was cut within a list: its whole elements."""
    end = len(text)
    for _ in range(8):  # the last commas may be in the string that was cut
        end = text.rfind(",", 0, max(end, 0))
        for closing in ("]", "]}"):
            with suppress(ValueError, RecursionError):
                return json.loads(text[: max(end, 0)] + closing)
    return _Damaged(text)


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
    """The character between columns; null: a comma in files that end in .csv, a tab in others."""
    quotes: bool = True
    """Whether "…" around a whole cell are its quotes, as CSV has them (within them, line ends and delimiters belong
    to the cell, and "" is one quote). Quotes that are not closed before a delimiter or a line end are text in any
    case. false: all quotes are text."""

    @field_validator("delimiter")
    @classmethod
    def _delimits(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and delimiter in '"\r\n':
            raise ValueError("must be neither a quote nor a line end")
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


class Tables(CaptionFiles):
    """TSV or CSV with a column of captions."""

    kind = "tsv"
    Params = TsvCorpus
    layout = "lines with tabs between columns, or corpus.delimiter; corpus.caption_column is a name or counts from 0"
    endings = packed_endings(".tsv")
    further_endings = packed_endings(".csv")

    def read_file(self, source: TsvCorpus, file: Path, label: str, noted: Unusable) -> Iterator[RawCaption]:
        """The captions of the rows of a file."""
        by_comma = file.name.lower().endswith(self.further_endings)
        delimiter = source.delimiter or ("," if by_comma else "\t")
        texts = rows(lines(file, source.encoding, ENCODING_OPTION, lone_cr=False), delimiter, source.quotes)
        skipped = [cells for _, cells in islice(texts, source.header_rows())]
        if len(skipped) < source.header_rows():
            return
        names = skipped[-1] if skipped else []
        caption_at = _column(source.caption_column, names, file, delimiter)
        id_at = None if source.id_column is None else _column(source.id_column, names, file, delimiter)
        # Where the column is a number, the skipped lines need not be a header.
        header = names if isinstance(source.caption_column, str) else []
        for number, found in texts:
            caption_id = f"{label}{number}"
            cells = cells_under_header(found, header, caption_at, delimiter)
            if cells is None:
                noted.hint = f"line {number} has {len(found)} columns, and the header {len(names)}"
                yield caption_id, None
                continue
            if id_at is not None:
                caption_id = id_or_place(cells[id_at] if id_at < len(cells) else None, caption_id, noted)
            if caption_at >= len(cells):
                text = printable(delimiter.join(cells)[:60])
                noted.hint = f"line {number} has {len(cells)} columns by {_delimiter(delimiter)}: {text}"
            yield caption_id, cells[caption_at] if caption_at < len(cells) else ""


def _column(column: int | str, names: list[str], path: Path, delimiter: str) -> int:
    """The number of a column.

    Raises:
        DataError: the header does not have its name.
    """
    if isinstance(column, int):
        return column
    stripped = [name.strip() for name in names]
    if column not in stripped:
        raise DataError(
            f"{path} has no column {column} in its header",
            found=f"{len(names)} columns by {_delimiter(delimiter)}; corpus.delimiter names another",
            choices=map(printable, stripped),
        )
    return stripped.index(column)


def _delimiter(delimiter: str) -> str:
    return {"\t": "tab", ",": "comma"}.get(delimiter, repr(delimiter))


class ParquetCorpus(FileCorpus):
    """Parquet with a caption column (strings, or lists of strings). Usual ending: .parquet."""

    kind: Literal["parquet"]
    """Names this kind."""
    caption_column: str = Field(min_length=1)
    """Name of the caption column."""
    id_column: str | None = None
    """Name of the id column; null: the row number."""


class Parquet(CaptionFiles):
    """Parquet files with a column of captions; rows are numbered through all files."""

    kind = "parquet"
    Params = ParquetCorpus
    layout = "Parquet with the column corpus.caption_column"
    endings = (".parquet",)

    def captions(self, source: ParquetCorpus, noted: Unusable) -> Iterator[RawCaption]:
        """The captions of the rows of the files, in the order of their names."""
        row = 0
        for _, file in corpus_files(source, self):
            for name, texts in text_rows(file, source.caption_column, source.id_column):
                noted.without_id += len(texts) * (name is None and source.id_column is not None)
                caption_id = str(row) if name is None else name
                yield from ((caption_id, text) for text in texts)
                row += 1
