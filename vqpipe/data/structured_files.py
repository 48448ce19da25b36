"""Structured text in foreign files, in bounded memory: rows of TSV and CSV, columns of Parquet, arrays of JSON.

One damaged cell costs its row or element and nothing else: no row is lost to a stray quote, and no file to one string
that is not UTF-8.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections import deque
from collections.abc import Iterator
from itertools import islice
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe.data.captions import identifier
from vqpipe.data.encodings import binary_kind
from vqpipe.data.text_files import MAX_LINE, open_bytes
from vqpipe.errors import DataError

MAX_ROW_LINES = 1000
"""Lines that a row may have. A quote that is not closed within them is text."""

Line = tuple[int, str]
"""A line's number and its text, without the line end."""


def rows(lines: Iterator[tuple[int, bytes]], delimiter: str, quotes: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, cells) for each row; bytes that are not UTF-8 become lone surrogates.

    A cell is quoted where its first character is a quote and its closing quote is followed by a delimiter, the line
    end or the end of the file; where tabs delimit, one of several lines has no tab. Any other quote is text: it
    neither joins lines nor is it dropped.

    Args:
        lines: numbers and bytes of the lines.
        delimiter: the character between cells.
        quotes: whether cells may be quoted.
    """
    ahead: deque[Line] = deque()
    texts = ((number, line.decode("utf-8", "surrogateescape")) for number, line in lines)
    while first := ahead.popleft() if ahead else next(texts, None):
        number, text = first
        has_quotes = quotes and (text.startswith('"') or f'{delimiter}"' in text)
        cells = _quoted(text, ahead, texts, delimiter) if has_quotes else None
        yield number, text.split(delimiter) if cells is None else cells


def cells_under_header(cells: list[str], header: list[str], last: int, delimiter: str) -> list[str] | None:
    """The cells of a row under its header; None where there are more and it is unclear which belong together.

    A row has more cells where text contains the delimiter and is not quoted: what comes after the header's last column
    belongs to it where it is the text's, column `last`. Empty cells after the header do not count.
    """
    width = len(header)
    while len(cells) > width > 0 and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) <= width or width == 0:
        return cells
    return [*cells[:last], delimiter.join(cells[last:])] if last == width - 1 else None


def _quoted(text: str, ahead: deque[Line], texts: Iterator[Line], delimiter: str) -> list[str] | None:
    """The cells of the row that begins with a line; None, and no line is taken, where its quotes are not sound."""
    taken = 0

    def row_lines() -> Iterator[str]:
        nonlocal taken
        size, line = 0, text
        while size + len(line) <= MAX_LINE and taken < MAX_ROW_LINES:
            size += len(line) + 1
            yield line + "\n"
            if taken == len(ahead):
                ahead.extend(islice(texts, 1))
            if taken == len(ahead):
                return
            line = ahead[taken][1]
            taken += 1

    csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_LINE))
    reader = csv.reader(row_lines(), delimiter=delimiter, strict=True)
    try:
        cells = next(reader)
    except csv.Error:
        return None
    if reader.line_num > 1 and delimiter == "\t" and any("\n" in cell and "\t" in cell for cell in cells):
        return None  # two stray quotes with rows between them; no one puts tabs into a cell of a TSV
    for _ in range(reader.line_num - 1):
        ahead.popleft()
    return cells


ROWS = 4096
"""Rows that are in memory at once, at most."""


def text_rows(file: Path, text: str, name: str | None) -> Iterator[tuple[str | None, list[object]]]:
    """Yield (name, texts) for each row: texts as bytes, several where the column has lists.

    Args:
        file: the Parquet file.
        text: the column of the texts. Values that are not text come as they are.
        name: the column of the rows' names; where it is None, or a row has none, None is yielded. Numbers are
            written as `vqpipe.data.captions.identifier` does; bytes that are not UTF-8 become backslash escapes.

    Raises:
        DataError: the file cannot be read, or has no such column.
    """
    wanted = [column for column in (text, name) if column is not None]
    try:
        with pq.ParquetFile(file) as opened:
            columns = opened.schema_arrow.names
            lacking = [column for column in wanted if column not in columns]
            if lacking:
                raise DataError(f"{file} has no column {lacking[0]}", choices=columns)
            for batch in opened.iter_batches(batch_size=ROWS, columns=wanted):
                names = _values(batch.column(name)) if name else [None] * batch.num_rows
                for own, value in zip(names, _values(batch.column(text)), strict=True):
                    yield _name(own), value if isinstance(value, list) else [value]
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file} cannot be read as Parquet: {error}",
            found=_what(file),
            expected="a Parquet file, not packed: its columns are",
        ) from error


def _what(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            return binary_kind(stream.read(512))
    except OSError:
        return None


def _name(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return identifier(value) if isinstance(value, bool | int | float | str) or value is None else str(value)


def _values(column: pa.Array) -> list[object]:
    """Values of a column; strings as bytes, since Arrow does not check that they are UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_list(kind):
        column = column.cast(pa.list_(_as_bytes(kind.value_type)))
    elif pa.types.is_large_list(kind):
        column = column.cast(pa.large_list(_as_bytes(kind.value_type)))
    values: list[object] = column.cast(_as_bytes(column.type)).to_pylist()
    return values


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    return {
        pa.string(): pa.binary(),
        pa.large_string(): pa.large_binary(),
        pa.string_view(): pa.binary(),
    }.get(kind, kind)


BLOCK = 1 << 20
"""Bytes that are read at once, at least."""
MAX_ELEMENT = 1 << 28
"""Characters of one element; what does not end within these is damaged."""
NUM_KEYS = 8
"""Keys of a file that are remembered, for messages."""
TOP, EVERY = "", "*"
"""In place of a key: the array that is the whole file; the values of all keys, arrays or not."""


class JsonArrays:
    """A JSON file of one object, whose arrays are decoded element by element.

    Only a window of the file is in memory: a block, or an element where that is longer. Bytes that are not UTF-8
    become lone surrogates, so that one bad caption does not cost the file.

    Args:
        path: the file, in any form that `vqpipe.data.text_files.open_bytes` reads.
        encoding: as there, and so is `option`.

    Raises:
        DataError: the file cannot be read.
    """

    def __init__(self, path: Path, encoding: str | None = None, option: str | None = None) -> None:
        self.path = path
        self._coding = encoding, option
        with open_bytes(path):
            pass
        self.keys: list[str] = []
        """Keys of the object, the first of them, in the order of the file."""
        self.text = ""
        """The window."""
        self._from = self._at = 0
        self._passed = 0
        self._ended = False
        self._json = json.JSONDecoder()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._stream: BinaryIO | None = None

    def elements(self, *keys: str) -> Iterator[tuple[str, Any, int, int]]:
        """Yield (key, element, start, end) for each element of the arrays under `keys`, in file order.

        Until the next element is requested, `self.text[start:end]` is the JSON of this one. Keys that are
        missing or null yield nothing. With `TOP` among the keys the file may be an array too; with `EVERY` values
        that are not arrays come as the only element of their key.

        Raises:
            DataError: not a JSON object, damaged, followed by more, or a key of `keys` is not an array.
        """
        try:
            with open_bytes(self.path, *self._coding) as stream:
                self._start(stream)
                if TOP in keys and self._peek() == "[":
                    yield from self._array(TOP, True)
                else:
                    yield from self._walk(keys)
                if self._peek():
                    raise json.JSONDecodeError("more after its end (JSON Lines?)", self.text, self._at)
        except (ValueError, RecursionError) as error:
            fault = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
            if type(error) is ValueError:
                fault = "a number that is too long"
            raise DataError(
                f"{self.path} is not a JSON object of arrays: {fault} near character {self._passed + self._at}"
            ) from error

    def _walk(self, keys: tuple[str, ...]) -> Iterator[tuple[str, Any, int, int]]:
        self._expect("{")
        while self._peek() != "}":
            key = self._value()
            self._expect(":")
            if len(self.keys) < NUM_KEYS:
                self.keys.append(str(key))
            if self._peek() == "[" or (key in keys and self._peek() != "n"):
                yield from self._array(key, key in keys or EVERY in keys)
            else:
                value = self._value()
                if EVERY in keys:
                    yield key, value, self._from, self._at
            self._after("}")
        self._expect("}")

    def _array(self, key: str, wanted: bool) -> Iterator[tuple[str, Any, int, int]]:
        self._expect("[")
        while self._peek() != "]":
            element = self._value()
            if wanted:
                yield key, element, self._from, self._at
            self._after("]")
        self._expect("]")

    def _start(self, stream: BinaryIO) -> None:
        self.keys.clear()
        self._stream, self.text, self._at, self._passed, self._ended = stream, "", 0, 0, False
        self._utf8.reset()

    def _more(self) -> None:
        """Move the window on: drop what has been decoded, and read as much again as is left, or a block."""
        assert self._stream is not None
        if len(self.text) - self._at > MAX_ELEMENT:
            raise json.JSONDecodeError(f"an element does not end within {MAX_ELEMENT} characters", "", 0)
        data = self._stream.read(max(BLOCK, len(self.text) - self._at))
        self._ended = not data
        self.text = self.text[self._at :] + self._utf8.decode(data, final=self._ended)
        self._passed, self._at = self._passed + self._at, 0

    def _peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            self._at = int(WHITESPACE.match(self.text, self._at).end())
            if self._at < len(self.text) or self._ended:
                return self.text[self._at : self._at + 1]
            self._more()

    def _value(self) -> Any:
        """Decode the next value and move past it."""
        self._peek()
        while True:
            try:
                value, end = self._json.raw_decode(self.text, self._at)
                after = 3 if isinstance(value, int | float) else 1  # "1" may continue as "1e+5"
                if end + after <= len(self.text) or self._ended:
                    self._from, self._at = self._at, end
                    return value
            except json.JSONDecodeError:
                if self._ended:
                    raise
            self._more()  # what ends with the window, or fails there, may continue after it

    def _expect(self, char: str) -> None:
        if self._peek() != char:
            raise json.JSONDecodeError(f"expecting {char!r}", self.text, self._at)
        self._at += 1

    def _after(self, closing: str) -> None:
        """Pass the comma after a member, unless the closing bracket follows."""
        if self._peek() != closing:
            self._expect(",")
