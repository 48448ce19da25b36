"""Parquet artifacts: typed, with a header, byte-identical, and clear about damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.spec import HEADER_KEY, FolderSpec, TableSpec
from vqpipe.artifacts.tables import (
    ShardWriter,
    arrow_type,
    iter_batches,
    read_header,
    read_table,
    stream_table,
    to_table,
    write_table,
)
from vqpipe.errors import ArtifactError

WORDS = TableSpec("words-test", 4, {"word": "string", "count": "int64"}, stage="counting")
BOX = FolderSpec("box-test", 1, stage="counting")
ROWS: list[dict[str, object]] = [{"word": "red", "count": 3}, {"word": "blue", "count": 1}]


FACTS = {"total": 4, "source": "x"}


def write(path: Path) -> Path:
    """A table of a folder, without a checksum of its own."""
    write_table(path, WORDS, to_table(WORDS, ROWS), FACTS)
    return path


def write_sealed(path: Path, rows: list[dict[str, object]] = ROWS) -> Path:
    """A table that is in no folder with a manifest."""
    with stream_table(path, WORDS, FACTS) as append:
        append(to_table(WORDS, rows))
    return path


def write_folder(folder: Path) -> Path:
    with publish_folder(folder, BOX, {}) as partial:
        write(partial / "w.parquet")
    return folder / "w.parquet"


@pytest.mark.parametrize("written", [write_sealed, lambda path: write_folder(path.with_suffix(""))])
def test_round_trip_with_header(tmp_path: Path, written: Callable[[Path], Path]) -> None:
    path = written(tmp_path / "w.parquet")
    assert read_table(path, WORDS).to_pylist() == ROWS
    assert [row for batch in iter_batches(path, WORDS) for row in batch.to_pylist()] == ROWS
    assert read_table(path, WORDS, columns=["count"]).to_pydict() == {"count": [3, 1]}
    header = read_header(path)
    assert (header.spec, header.version, header.facts) == ("words-test", 4, {"source": "x", "total": 4})


def test_equal_content_gives_equal_bytes_and_one_metadata_key(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.parquet"), write(tmp_path / "two.parquet")
    assert one.read_bytes() == two.read_bytes()
    assert set(pq.read_schema(one).metadata) == {HEADER_KEY.encode()}
    sealed = [write_sealed(tmp_path / name) for name in ("three.parquet", "four.parquet")]
    assert sealed[0].read_bytes() == sealed[1].read_bytes()


def test_columns_form_is_the_rows_form() -> None:
    columns = {"word": ["red", "blue"], "count": [3, 1]}
    assert to_table(WORDS, columns).equals(to_table(WORDS, ROWS))


def test_wrong_columns_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"(?s)wrong columns.*found: +word\n +expected: word, count$"):
        write_table(tmp_path / "w.parquet", WORDS, pa.table({"word": ["a"]}))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"(?s)words-test v4.*dvc repro counting"):
        read_table(tmp_path / "w.parquet", WORDS)
    with pytest.raises(ArtifactError, match="dvc repro counting"):
        list(iter_batches(tmp_path / "w.parquet", WORDS))


def test_another_version_is_told(tmp_path: Path) -> None:
    path = write_sealed(tmp_path / "w.parquet")
    newer = TableSpec("words-test", 5, WORDS.columns, stage="counting")
    with pytest.raises(
        ArtifactError, match=r"(?s)found: +words-test v4\n.*expected: +words-test v5\n.*dvc repro counting"
    ):
        read_table(path, newer)


@pytest.mark.parametrize("keep", [0, 3, 40, -1])
def test_a_truncated_file_is_told(tmp_path: Path, keep: int) -> None:
    path = write_sealed(tmp_path / "w.parquet")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"(?s)no checksum: it is damaged.*download it"):
        read_table(path, WORDS)
    with pytest.raises(ArtifactError, match="cannot be read as Parquet"):
        read_header(path)


def test_a_foreign_file_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"word": ["a"]}), tmp_path / "f.parquet")
    with pytest.raises(ArtifactError, match="did not write"):
        read_header(tmp_path / "f.parquet")
    with pytest.raises(ArtifactError, match="carries no checksum"):
        read_table(tmp_path / "f.parquet", WORDS)


def test_a_table_without_a_checksum_is_read_only_in_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="carries no checksum"):
        read_table(write(tmp_path / "w.parquet"), WORDS)
    inside = write_folder(tmp_path / "box")
    write(inside.with_name("more.parquet"))
    with pytest.raises(ArtifactError, match=r"more\.parquet is not in its folder's manifest"):
        read_table(inside.with_name("more.parquet"), WORDS)


def test_batches_are_bounded_and_in_order(tmp_path: Path) -> None:
    write_sealed(tmp_path / "w.parquet", [{"word": str(i), "count": i} for i in range(2500)])
    batches = list(iter_batches(tmp_path / "w.parquet", WORDS, rows=1000))
    assert max(batch.num_rows for batch in batches) <= 1000
    assert [v for batch in batches for v in batch.column("count").to_pylist()] == list(range(2500))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("int64", pa.int64()),
        ("list<double>", pa.list_(pa.float64())),
        ("list<list<string>>", pa.list_(pa.list_(pa.string()))),
        ("struct<a: int8, b: list<float>>", pa.struct([("a", pa.int8()), ("b", pa.list_(pa.float32()))])),
        (
            "list<struct<a: string, b: struct<c: bool>>>",
            pa.list_(pa.struct([("a", pa.string()), ("b", pa.struct([("c", pa.bool_())]))])),
        ),
    ],
)
def test_types_of_specs(text: str, kind: pa.DataType) -> None:
    assert arrow_type(text) == kind


def test_an_unknown_type_is_our_bug() -> None:
    with pytest.raises(ValueError, match="int63"):
        arrow_type("int63")


def test_shards_roll_over_at_the_same_rows_every_time(tmp_path: Path) -> None:
    def shards(folder: Path) -> list[bytes]:
        with publish_folder(folder, BOX, {}) as partial:
            writer = ShardWriter(partial, "part", WORDS, shard_bytes=100)
            for at in range(12):
                writer.write(to_table(WORDS, [{"word": "w" * 20, "count": at}] * 2))
            writer.close()
        assert writer.rows == 24
        return [(folder / name).read_bytes() for name in writer.shards]

    one, two = shards(tmp_path / "one"), shards(tmp_path / "two")
    assert one == two
    assert len(one) > 2
    names = sorted(path.name for path in (tmp_path / "one").glob("*.parquet"))
    assert names == [f"part-{i:05d}.parquet" for i in range(len(one))]
    counts = [
        v for name in names for v in read_table(tmp_path / "one" / name, WORDS).column("count").to_pylist()
    ]
    assert counts == [at for at in range(12) for _ in range(2)]


def test_an_empty_writer_writes_no_shard(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "part", WORDS)
    writer.write(to_table(WORDS, []))
    writer.close()
    assert writer.shards == []
    assert list(tmp_path.iterdir()) == []
