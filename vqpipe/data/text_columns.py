"""Columns of text in foreign Parquet files, read so that one bad string does not stop the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe.data.captions import identifier
from vqpipe.data.encodings import binary_kind
from vqpipe.errors import DataError

ROWS = 4096
"""Rows that are in memory at once, at most."""


def text_rows(file: Path, text: str, name: str | None) -> Iterator[tuple[str | None, list[object]]]:
    """Yield (name, texts) for each row: texts as bytes, several where the column holds lists.

    Args:
        file: the Parquet file.
        text: the column of the texts. Values that are none come as they are.
        name: the column of the rows' names; where it is None, or a row has none, None is yielded. Numbers are
            written as `vqpipe.data.captions.identifier` does; bytes that are no UTF-8 become backslash escapes.

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
