"""The quarantine table is bounded; counts are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqpipe.artifacts.specs.dataset import QUARANTINE
from vqpipe.artifacts.tables import read_header, stream_table
from vqpipe.data import records
from vqpipe.data.records import Bad, quarantine_table, rows_left_out
from vqpipe.report import about_data
from vqpipe.report.blocks import Table


def bad(split: str, reason: str, count: int) -> list[tuple[str, Bad]]:
    return [(split, Bad(f"{split}/{reason}{at}", reason, "why")) for at in range(count)]


def test_a_short_table_has_every_row_and_says_nothing_of_others() -> None:
    entries = [*bad("train", "other_file", 3), *bad("test", "hidden", 2)]
    table, facts = quarantine_table(entries)
    assert (table["item"].to_pylist(), facts) == ([entry.item for _, entry in entries], {})


def test_a_long_table_keeps_the_first_rows_of_each_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_ROWS", 100)
    entries = [*bad("train", "other_file", 500), *bad("test", "undecodable", 10), *bad("test", "other_file", 7),
               *bad("", "hidden", 300)]  # fmt: skip
    table, facts = quarantine_table(entries)
    kept = table.to_pylist()
    assert [row["reason"] for row in kept] == ["other_file"] * 45 + ["undecodable"] * 10 + ["hidden"] * 45
    assert [row["item"] for row in kept[:45]] == [f"train/other_file{at}" for at in range(45)]
    assert facts == {
        "rows_left_out": {"": {"hidden": 255}, "test": {"other_file": 7}, "train": {"other_file": 455}}
    }
    assert len(kept) + rows_left_out(facts).total() == len(entries)


@pytest.mark.parametrize("count", [9_999, 10_000, 10_001])
def test_the_limit(count: int) -> None:
    table, facts = quarantine_table(bad("train", "other_file", count))
    assert len(table) == min(count, 10_000)
    assert rows_left_out(facts).total() == max(0, count - 10_000)


def test_a_row_is_bounded_too() -> None:
    table, _ = quarantine_table([("train", Bad("n" * 10**6, "bad_annotation", "d" * 10**6))])
    assert [len(value) for value in table.to_pylist()[0].values()] == [5, 4096, len("bad_annotation"), 1000]


def test_the_page_counts_what_the_table_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_ROWS", 4)
    entries = [*bad("train", "other_file", 50), *bad("test", "undecodable", 1), *bad("val", "other_file", 2)]
    table, facts = quarantine_table(entries)
    with stream_table(tmp_path / "quarantine.parquet", QUARANTINE, facts) as add:
        add(table)
    assert read_header(tmp_path / "quarantine.parquet").facts == facts
    (shown,) = about_data._quarantine(tmp_path)
    assert isinstance(shown, Table)
    assert [[cell.text for cell in row] for row in shown.rows] == [
        ["other file", "train", "50", "train/other_file0"],
        ["other file", "val", "2", "–"],
        ["undecodable", "test", "1", "test/undecodable0"],
    ]
    assert "keeps 4 rows; 49 more" in shown.note
