"""Rows of TSV and CSV: quotes as CSV has them, stray quotes that cost nothing, headers, and mistakes."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqpipe.data import structured_files
from vqpipe.data.captions import Unusable
from vqpipe.data.corpus import CorpusParams, read_captions
from vqpipe.data.structured_files import cells_under_header, rows
from vqpipe.errors import DataError, ParamsError
from vqpipe.params.base import validate


def read(path: Path, lost: Counter[str] | None = None, **fields: Any) -> list[tuple[str, str]]:
    fields = {"kind": "tsv", "path": str(path), **fields}
    return list(read_captions(validate(fields, "corpus", CorpusParams), unusable=lost))  # type: ignore[arg-type]


def cells(text: str, delimiter: str = "\t", quotes: bool = True) -> list[list[str]]:
    lines = enumerate(text.encode().removesuffix(b"\n").split(b"\n"), 1)
    return [row for _, row in rows(iter(lines), delimiter, quotes)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('1\t"a\nb"\n2\tc\n', [["1", "a\nb"], ["2", "c"]]),
        ('1\t"a ""big"" b"\n\n2\t""', [["1", 'a "big" b'], [""], ["2", ""]]),
        ('"x\ty"\tz', [["x\ty", "z"]]),
        ('1\t"a red\n2\tblue\n3\t"open" sign', [["1", '"a red'], ["2", "blue"], ["3", '"open" sign']]),
        ('1\t"a red\n2\tblue\n3\ta sign "open"', [["1", '"a red'], ["2", "blue"], ["3", 'a sign "open"']]),
        ('1\t"a red\n2\tblue\n3\tgreen"', [["1", '"a red'], ["2", "blue"], ["3", 'green"']]),
        ('1\t5" pipe\n2\t"\n3\t"', [["1", '5" pipe'], ["2", '"'], ["3", '"']]),
        ('"\n"\n"', [["\n"], ['"']]),
        ('1\t"a" \n2\tb', [["1", '"a" '], ["2", "b"]]),
        ('"one', [['"one']]),
    ],
)
def test_quotes_are_those_of_whole_cells_and_others_are_text(text: str, expected: list[list[str]]) -> None:
    assert cells(text) == expected
    assert sum(map(len, cells(text, quotes=False))) == len(
        text.removesuffix("\n").replace("\n", "\t").split("\t")
    )


@given(st.lists(st.lists(st.text(st.sampled_from('ab",;\n ')), min_size=2, max_size=3), min_size=1))
def test_what_the_csv_module_writes_is_read_as_it_was(table: list[list[str]]) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(table)
    assert cells(stream.getvalue(), ",") == table


@given(st.lists(st.text(st.sampled_from('ab" \t')), min_size=1).filter(lambda lines: bool(lines[-1])))
def test_no_line_of_a_tsv_is_lost_to_its_quotes(lines: list[str]) -> None:
    text = "\n".join(f"{at}\t{line}" for at, line in enumerate(lines))
    assert [row[0] for row in cells(text)] == [str(at) for at in range(len(lines))]


def test_a_quote_that_is_not_closed_is_looked_for_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    read_lines = 0

    def lines() -> Any:
        nonlocal read_lines
        for number in range(1, 10_000):
            read_lines = number
            yield number, b'1,"open' if number == 1 else b'2,""'

    monkeypatch.setattr(structured_files, "MAX_ROW_LINES", 50)
    stream = rows(lines(), ",", True)
    assert next(stream) == (1, ["1", '"open'])
    assert read_lines <= 60
    assert next(stream) == (2, ["2", ""])


def test_a_cell_above_the_csv_modules_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(f'id,caption\n1,"{"red " * 100_000}, big"\n2,a bus\n')
    found = read(tmp_path / "c.csv", caption_column="caption", id_column="id")
    assert [(name, len(text)) for name, text in found] == [("1", 400_005 - 1 + 1), ("2", 5)]


def test_headers_delimiters_and_ids(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(
        '\ufeffimage, caption \r\n1.jpg,"a red, big bus\r\nby a house"\r\n,a cat\r\n3.jpg\r\n'.encode()
    )
    lost = Unusable()
    assert read(tmp_path / "c.csv", lost, caption_column="caption", id_column="image") == [
        ("1.jpg", "a red, big bus\nby a house"), ("4", "a cat"),
    ]  # fmt: skip
    assert (lost, lost.without_id) == ({"empty_caption": 1}, 1)
    assert read(tmp_path / "c.csv", caption_column=1, num_header_lines=1)[0][0] == "2"
    assert read(tmp_path, caption_column="caption")[0] == ("c.csv:2", "a red, big bus\nby a house")
    (tmp_path / "d.tsv").write_text("comment\ntext;id\na; b\n")
    assert read(tmp_path / "d.tsv", caption_column="id", num_header_lines=2, delimiter=";") == [("3", "b")]
    assert [name for name, _ in read(tmp_path, caption_column=0)] == ["d.tsv:1", "d.tsv:2", "d.tsv:3"]
    (tmp_path / "old.tsv").write_bytes(b"a red bus\rx\r1\ra blue bus\t2\r")
    assert len(read(tmp_path / "old.tsv", caption_column=0)) == 4
    (tmp_path / "stray.tsv").write_bytes(b"a red\rbus\t1\na blue bus\t2\r\n")
    assert read(tmp_path / "stray.tsv", caption_column=0, id_column=1) == [
        ("1", "a red\rbus"),
        ("2", "a blue bus"),
    ]


def test_mistakes_about_columns_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv"
    path.write_text("image;caption\n1;a red bus\n")
    with pytest.raises(
        DataError,
        match=r"no column caption in its header\n +found: +1 columns by tab.*\n +choices: +image;caption",
    ):
        read(path, caption_column="caption")
    with pytest.raises(DataError, match=r"2 empty_caption; line 2 has 1 columns by tab: 1;a red bus"):
        read(path, caption_column=1)
    for wrong in ({"caption_column": "caption", "num_header_lines": 0}, {"caption_column": -1}, {"caption_column": ""},
                  {"caption_column": 0, "delimiter": '"'}, {"caption_column": 0, "delimiter": "ab"}):  # fmt: skip
        with pytest.raises(ParamsError, match=r"header|greater|at least 1|neither a quote|at most 1"):
            read(path, **wrong)
    path.write_text("")
    with pytest.raises(DataError, match="no captions at all"):
        read(path, caption_column="caption")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0.jpg,A child , in pink .", ["0.jpg", "A child , in pink ."]),
        ("0.jpg,a dog,,", ["0.jpg", "a dog"]),
        ("0.jpg,a dog", ["0.jpg", "a dog"]),
        ("0.jpg", ["0.jpg"]),
    ],
)
def test_text_behind_the_last_column_belongs_to_it(line: str, expected: list[str]) -> None:
    assert cells_under_header(line.split(","), ["image", "caption"], 1, ",") == expected


def test_more_cells_than_columns_are_refused_where_the_text_is_not_last() -> None:
    assert cells_under_header(["a dog", " a cat", "0.jpg"], ["caption", "image"], 0, ",") is None
    assert cells_under_header(["a", "b", "c"], [], 1, ",") == ["a", "b", "c"]
