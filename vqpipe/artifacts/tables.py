"""Parquet artifacts: typed write and read, and a writer that rolls over into shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe.artifacts.intact import need_intact
from vqpipe.artifacts.publish import publish_file
from vqpipe.artifacts.seal import PARQUET, UNSEALED, seal_file
from vqpipe.artifacts.spec import (
    HEADER_KEY,
    Facts,
    Header,
    TableSpec,
    check_header,
    header_for,
    missing,
)
from vqpipe.errors import ArtifactError

_SCALARS = {
    "string": pa.string(), "binary": pa.binary(), "bool": pa.bool_(),
    "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(), "uint8": pa.uint8(),
    "float16": pa.float16(), "float": pa.float32(), "double": pa.float64(),
}  # fmt: skip


SEAL_KEY = f"{HEADER_KEY}.seal"


def arrow_type(text: str) -> pa.DataType:
    """Parse a type as used in specs: a scalar name, `list<T>` or `struct<a: T, b: T>`."""
    text = text.strip()
    if text in _SCALARS:
        return _SCALARS[text]
    if text.startswith("list<") and text.endswith(">"):
        return pa.list_(arrow_type(text[5:-1]))
    if text.startswith("struct<") and text.endswith(">"):
        fields, depth, start = [], 0, 7
        for at, char in enumerate(text):
            depth += {"<": 1, ">": -1}.get(char, 0)
            if (char == "," and depth == 1) or at == len(text) - 1:
                name, kind = text[start:at].split(":", 1)
                fields.append(pa.field(name.strip(), arrow_type(kind)))
                start = at + 1
        return pa.struct(fields)
    raise ValueError(f"unknown column type {text!r}")


def schema_of(spec: TableSpec, facts: Facts | None = None) -> pa.Schema:
    """The Arrow schema that files of this spec have, with its header in the metadata."""
    fields = [pa.field(name, arrow_type(text)) for name, text in spec.columns.items()]
    return pa.schema(fields, metadata={HEADER_KEY: header_for(spec, facts).to_json()})


def to_table(
    spec: TableSpec, rows: Sequence[dict[str, Any]] | dict[str, Any], facts: Facts | None = None
) -> pa.Table:
    """Build a table of this spec from row dictionaries or from a dictionary of columns."""
    schema = schema_of(spec, facts)
    if isinstance(rows, dict):
        return pa.table(rows, schema=schema)
    return pa.Table.from_pylist(list(rows), schema=schema)


def write_table(path: Path, spec: TableSpec, table: pa.Table, facts: Facts | None = None) -> None:
    """Publish one Parquet file (zstd, row groups of 1,024 rows); equal content gives equal bytes.

    Raises:
        ArtifactError: the table's columns are not those of the spec.
    """
    schema = schema_of(spec, facts)
    if table.schema.names != schema.names:
        raise ArtifactError(
            f"{path}: wrong columns", found=", ".join(table.schema.names), expected=", ".join(schema.names)
        )
    with publish_file(path) as partial:
        pq.write_table(table.cast(schema), partial, compression="zstd", row_group_size=1024)


def read_header(path: Path) -> Header:
    """The header of a Parquet file.

    Raises:
        ArtifactError: not a Parquet file, or one that vqpipe did not write.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path}: cannot be read as Parquet ({error})") from error
    if HEADER_KEY.encode() not in metadata:
        raise ArtifactError(f"{path}: a Parquet file that vqpipe did not write (no vqpipe header)")
    return Header.from_json(metadata[HEADER_KEY.encode()].decode(), path)


@contextmanager
def open_table(path: Path, spec: TableSpec) -> Iterator[pq.ParquetFile]:
    """A Parquet artifact that is open, after its content was compared with its checksum.

    Raises:
        ArtifactError: missing, damaged, unreadable, or of another spec or version.
    """
    if not path.is_file():
        raise missing(path, spec)
    need_intact(path)
    check_header(read_header(path), spec, path)
    with pq.ParquetFile(path) as file:
        yield file


def read_table(path: Path, spec: TableSpec, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet artifact whole, or only some columns.

    Raises:
        ArtifactError: as `open_table`.
    """
    with open_table(path, spec) as file:
        return file.read(columns=list(columns) if columns else None)


def iter_batches(
    path: Path, spec: TableSpec, columns: Sequence[str] | None = None, rows: int = 1024
) -> Iterator[pa.RecordBatch]:
    """Stream a Parquet artifact in record batches of at most `rows` rows; errors as `read_table`."""
    with open_table(path, spec) as file:
        yield from file.iter_batches(batch_size=rows, columns=list(columns) if columns else None)


@contextmanager
def stream_table(
    path: Path, spec: TableSpec, facts: Facts | None = None
) -> Iterator[Callable[[pa.Table], None]]:
    """Publish one Parquet file piece by piece: yields the function that appends a table of the spec's columns.

    The file carries a checksum of itself, since it is in no folder with a manifest.

    Each call makes row groups of its own, of at most 1,024 rows; so calls of the same rows give the same bytes.
    Nothing is published where the block raises.
    """
    schema = schema_of(spec, facts)
    with publish_file(path) as partial:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            yield lambda table: writer.write_table(table.cast(schema), row_group_size=1024)
            writer.add_key_value_metadata({SEAL_KEY: UNSEALED})
        seal_file(partial, PARQUET)


class ShardWriter:
    """Writes rows in order to `PREFIX-00000.parquet`, `PREFIX-00001.parquet`, … of about `shard_bytes` each.

    The shard boundaries depend on the rows alone, so that any number of workers gives the same bytes. Use it
    inside a `publish_folder` block.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        spec: TableSpec,
        shard_bytes: int = 256 << 20,
    ) -> None:
        self.folder, self.prefix, self.spec = folder, prefix, spec
        self.schema = schema_of(spec)
        self.shard_bytes = shard_bytes
        self.rows = 0
        self.shards: list[str] = []
        self._writer: pq.ParquetWriter | None = None
        self._bytes = 0

    def write(self, table: pa.Table) -> None:
        """Append a table of the spec's columns as one row group (or several of 1,024 rows)."""
        if table.num_rows == 0:
            return
        if self._writer is None or self._bytes >= self.shard_bytes:
            self._roll()
        assert self._writer is not None
        self._writer.write_table(table.cast(self.schema), row_group_size=1024)
        self._bytes += table.nbytes
        self.rows += table.num_rows

    def _roll(self) -> None:
        self.close()
        name = f"{self.prefix}-{len(self.shards):05d}.parquet"
        self.shards.append(name)
        self._writer = pq.ParquetWriter(self.folder / name, self.schema, compression="zstd")
        self._bytes = 0

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
