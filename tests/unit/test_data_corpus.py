"""Corpora of several files and several sources: what is read, in which order, under which ids."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vqpipe.data import structured_files, text_files
from vqpipe.data.captions import Unusable
from vqpipe.data.corpus import CorpusParams, read_captions
from vqpipe.data.structured_files import JsonArrays
from vqpipe.errors import DataError, ParamsError
from vqpipe.params.base import validate


def read(lost: Counter[str] | None = None, **fields: Any) -> list[tuple[str, str]]:
    return list(read_captions(validate(fields, "corpus", CorpusParams), unusable=lost))  # type: ignore[arg-type]


def coco(**captions: str) -> bytes:
    rows = [{"image_id": name, "caption": caption} for name, caption in captions.items()]
    return json.dumps({"images": [{"id": 1}], "annotations": rows}).encode()


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("a cat\n\na dog\n")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a bus\n"))
    (tmp_path / ".hidden.txt").write_text("a ghost\n")
    (tmp_path / "readme.md").write_text("a page\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/c.txt").write_text("a kite\n")
    lost: Counter[str] = Counter()
    assert read(lost, kind="text", path=str(tmp_path)) == [
        ("a.txt.gz:1", "a bus"), ("b.txt:1", "a cat"), ("b.txt:3", "a dog"),
    ]  # fmt: skip
    assert lost == {"empty_caption": 1}
    assert read(kind="text", path=str(tmp_path), files="**/*.txt")[-1] == ("more/c.txt:1", "a kite")
    assert read(kind="text", path=str(tmp_path), files="*.md") == [("readme.md:1", "a page")]
    assert read(kind="text", path=str(tmp_path / "b.txt")) == [("1", "a cat"), ("3", "a dog")]


def test_folders_of_json_tsv_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes(coco(x="a bus"))
    (tmp_path / "val.json.gz").write_bytes(gzip.compress(coco(y="a cat")))
    assert read(kind="coco", path=str(tmp_path)) == [("x", "a bus"), ("y", "a cat")]
    for name in ("1.tsv", "2.tsv"):
        (tmp_path / name).write_text("caption\turl\na kite\tu\n")
    assert read(kind="tsv", path=str(tmp_path), caption_column=0, num_header_lines=1) == [
        ("1.tsv:2", "a kite"), ("2.tsv:2", "a kite"),
    ]  # fmt: skip
    pq.write_table(pa.table({"c": ["a", "b"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"c": ["c"]}), tmp_path / "2.parquet")
    assert read(kind="parquet", path=str(tmp_path), caption_column="c") == [
        ("0", "a"),
        ("1", "b"),
        ("2", "c"),
    ]


def test_json_lines(tmp_path: Path) -> None:
    values = [{"text": "a bus", "key": 7}, {"text": ["one", "two"], "key": "k"}, "just text", {"key": 9}, 4]
    path = tmp_path / "c.jsonl"
    path.write_bytes(
        "\n".join(json.dumps(v) for v in values).encode() + b'\n\n{"text": "cut\n{"text": "caf\xe9"}\n'
    )
    lost: Counter[str] = Counter()
    assert read(lost, kind="jsonl", path=str(path), caption_field="text", id_field="key") == [
        ("7", "a bus"), ("k", "one"), ("k", "two"), ("3", "just text"),
    ]  # fmt: skip
    assert lost == {"caption_not_text": 3, "empty_caption": 1, "caption_not_utf8": 1}


def test_many_sources_keep_their_ids_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/c.json").write_bytes(coco(x="a bus"))
    (tmp_path / "c.tsv").write_text("a cat\ta dog\n")
    tsv = {"kind": "tsv", "path": "c.tsv", "num_header_lines": 0}
    sources = [
        {"kind": "coco", "path": "a"}, {**tsv, "caption_column": 0}, {**tsv, "caption_column": 1},
    ]  # fmt: skip
    assert read(kind="many", path=str(tmp_path), sources=sources) == [
        ("a:x", "a bus"), ("c.tsv:1", "a cat"), ("c.tsv#2:1", "a dog"),
    ]  # fmt: skip
    (tmp_path / "c.tsv").write_text("\t\n")
    with pytest.raises(DataError, match=r"no usable caption in .*c\.tsv\n  found:    1 empty_caption"):
        read(kind="many", path=str(tmp_path), sources=sources)


@pytest.mark.parametrize("path", ["/data/x.txt", "../x.txt", "a/../../x.txt"])
def test_sources_lie_in_their_folder(path: str) -> None:
    with pytest.raises(ParamsError, match="is not in the folder"):
        read(kind="many", path="data", sources=[{"kind": "text", "path": path}])
    with pytest.raises(ParamsError, match="within the folder"):
        read(kind="text", path="data", files=path)


def test_captions_of_other_json_layouts(tmp_path: Path) -> None:
    karpathy = {
        "images": [
            {
                "filename": "a.jpg",
                "cocoid": 7.0,
                "split": "train",
                "sentences": [{"raw": "a bus"}, {"raw": "a cat"}],
            },
            {"filename": "b.jpg", "split": "restval", "sentences": [{"raw": "a dog"}, {"tokens": []}]},
            {"filename": "c.jpg", "split": "test", "sentences": [{"raw": "a kite"}]},
        ],
        "dataset": "coco",
    }
    listed = [
        {"image": "a.jpg", "caption": "a bus"},
        {"image_id": 7.0, "caption": ["a cat", "a dog"]},
        {"id": None},
        3,
    ]
    by_image = {"a.jpg": ["a bus", "a cat"], "b.jpg": "a dog", "c.jpg": [], "d.jpg": 3}
    expected = {
        "karpathy": (karpathy, [("7", "a bus"), ("7", "a cat"), ("b.jpg", "a dog")], {"caption_not_text": 1}),
        "listed": (listed, [("a.jpg", "a bus"), ("7", "a cat"), ("7", "a dog")], {"caption_not_text": 2}),
        "by_image": (by_image, [("a.jpg", "a bus"), ("a.jpg", "a cat"), ("b.jpg", "a dog")], {}),
    }
    for name, (content, captions, reasons) in expected.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        lost = Unusable()
        assert read(lost, kind="coco", path=str(path)) == captions
        assert lost == reasons
        assert lost.other_splits == (name == "karpathy")
    line = tmp_path / "c.jsonl"
    line.write_text(json.dumps(listed))
    assert read(kind="jsonl", path=str(line), caption_field="caption") == [
        ("1", "a bus"),
        ("1", "a cat"),
        ("1", "a dog"),
    ]


def test_ids_are_the_same_in_any_form_and_missing_ones_are_counted(tmp_path: Path) -> None:
    ids = [1, 1.0, "1", None, "", True]
    rows = [{"image_id": one, "caption": "a bus"} for one in ids] + [{"caption": "a bus"}]
    (tmp_path / "c.json").write_text(json.dumps({"annotations": rows}))
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lost = Unusable()
    found = read(lost, kind="coco", path=str(tmp_path / "c.json"))
    assert [name for name, _ in found] == ["1", "1", "1", "#4", "#5", "#6", "#7"]
    assert (lost, lost.without_id) == ({}, 4)
    lost = Unusable()
    lines = {"kind": "jsonl", "caption_field": "caption", "path": str(tmp_path / "c.jsonl")}
    found = read(lost, **lines, id_field="image_id")
    assert [name for name, _ in found] == ["1", "1", "1", "#4", "#5", "#6", "#7"]
    assert (lost, lost.without_id) == ({}, 4)
    read(lost, **lines)
    assert lost.without_id == 4
    for column, names in (
        ([1.0, None], ["1", "1"]),
        ([1, 2], ["1", "2"]),
        ([float("nan"), 1.5], ["0", "1.5"]),
    ):
        pq.write_table(pa.table({"c": ["a", "b"], "id": column}), tmp_path / "c.parquet")
        lost = Unusable()
        fields = {"kind": "parquet", "path": str(tmp_path / "c.parquet"), "caption_column": "c"}
        assert [name for name, _ in read(lost, **fields, id_column="id")] == names
        assert lost.without_id == sum(one is None or one != one for one in column)


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("coco", '{"caption": "a bus"}\n{"caption": "a cat"}\n', r"more after its end \(JSON Lines\?\)"),
        ("coco", '{"images": [{"id": 1}], "annotations": []}', "the keys of .* are images, annotations"),
        (
            "coco",
            '{"annotations": [{"image_id": 1, "text": "x"}]}',
            "the keys of an element are image_id, text",
        ),
        ("coco", '[{"image_id": 1' + "9" * 5000 + "}]", "a number that is too long"),
        ("coco", '[{"image_id": 1, "caption": "x"}', "expecting ','"),
        ("coco", "[" * 100_000, "nested too deep"),
        (
            "coco",
            '{"images": [{"split": "val", "sentences": [{"raw": "x"}]}]}',
            "without an image whose split is",
        ),
        ("jsonl", '{"text": "a bus"}\n', "the keys of line 1 are text"),
        ("jsonl", '[\n{"c": "a bus"},\n{"c": "a cat"},\n]\n', "kind: coco reads JSON over several lines"),
        ("jsonl", "9" * 5000 + "\n", "1 caption_not_text"),
        ("jsonl", "[" * 100_000, "1 caption_not_text"),
    ],
)
def test_json_without_captions_says_what_it_has(tmp_path: Path, kind: str, text: str, told: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        read(kind=kind, path=str(path), **({"caption_field": "c"} if kind == "jsonl" else {}))


def test_what_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)has no \*\.txt and no \*\.txt\.gz.*an empty folder"):
        read(kind="text", path=str(tmp_path))
    (tmp_path / "a.csv").write_text("a bus\n")
    with pytest.raises(DataError, match=r"(?s)has no shard-\*.*found: +a\.csv"):
        read(kind="text", path=str(tmp_path), files="shard-*")
    with pytest.raises(DataError, match=r"(?s)is not a folder.*found: +a file"):
        read(kind="text", path=str(tmp_path / "a.csv"), files="*.txt")
    (tmp_path / "cut.txt").write_bytes(gzip.compress(b"a red bus\n" * 500)[:-20])
    with pytest.raises(DataError, match=r"cut\.txt cannot be read"):
        read(kind="text", path=str(tmp_path / "cut.txt"))


def test_a_line_without_end_is_cut_between_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE", 8)
    path = tmp_path / "long.txt"
    path.write_bytes("aé bééééééé and on and on\nshort\n".encode() + b"1234567\n12345678\n")
    assert read(kind="text", path=str(path)) == [
        ("1", "aé bé"),
        ("2", "short"),
        ("3", "1234567"),
        ("4", "1234567"),
    ]


def test_parquet_columns_of_any_text_type(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\5\0\0\0\7\0\0\0"), pa.py_buffer(b"a bus\xe9x")]
    )
    texts = {
        "plain": bad,
        "coded": bad.cast(pa.binary()).dictionary_encode(),
        "large": bad.cast(pa.binary()).cast(pa.large_binary()),
    }
    for name, column in texts.items():
        pq.write_table(pa.table({"c": column, "id": bad}), tmp_path / f"{name}.parquet")
        lost: Counter[str] = Counter()
        found = read(
            lost, kind="parquet", path=str(tmp_path / f"{name}.parquet"), caption_column="c", id_column="id"
        )
        assert (found, lost) == ([("a bus", "a bus")], {"caption_not_utf8": 1})
    lists = pa.ListArray.from_arrays([0, 1, 2], bad)
    pq.write_table(pa.table({"c": lists, "id": [None, "\\xe9"]}), tmp_path / "lists.parquet")
    lost = Counter()
    assert read(
        lost, kind="parquet", path=str(tmp_path / "lists.parquet"), caption_column="c", id_column="id"
    ) == [("0", "a bus")]
    assert lost == {"caption_not_utf8": 1}
    pq.write_table(pa.table({"c": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(DataError, match="2 caption_not_text"):
        read(kind="parquet", path=str(tmp_path / "numbers.parquet"), caption_column="c")


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_json_arrays_do_not_depend_on_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(structured_files, "BLOCK", block)
    content = {
        "skip": [[1, {"a": "]"}], 2],
        "n": 12.5,
        "a": [12, -3e5, "é\u20ac\U0001f426", {"b": [True, None]}, []],
    }
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content, ensure_ascii=False, indent=1).encode())
    source = JsonArrays(path)
    found = [(element, json.loads(source.text[start:end])) for _, element, start, end in source.elements("a")]
    assert [element for element, _ in found] == content["a"] == [own for _, own in found]


def test_json_arrays_keep_a_window_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structured_files, "BLOCK", 100)
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"other": ["y" * 50] * 500, "a": ["x" * 50] * 500}))
    source = JsonArrays(path)
    assert max(len(source.text) for _ in source.elements("a")) <= 400
    monkeypatch.setattr(structured_files, "MAX_ELEMENT", 1000)
    path.write_text('{"a": ["' + "x" * 5000)
    with pytest.raises(DataError, match="does not end within 1000 characters"):
        list(source.elements("a"))


@pytest.mark.parametrize("note", ["# captions", "# made by a tool, on a day"])
def test_lines_that_are_skipped_need_be_no_header(note: str, tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(f"{note}\n1.jpg,a red dog,web\n2.jpg,a bus,web\n")
    lost = Unusable()
    found = read(lost, kind="tsv", path=str(path), caption_column=1, num_header_lines=1)
    assert [caption for _, caption in found] == ["a red dog", "a bus"]
    path.write_text("image,caption\n1.jpg,A child , in pink .\n")
    found = read(lost, kind="tsv", path=str(path), caption_column="caption", num_header_lines=1)
    assert [caption for _, caption in found] == ["A child , in pink ."]
    assert not lost


def test_a_link_out_of_a_folder_of_captions_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions/a.txt").write_text("a red bird\n")
    (tmp_path / "secret").write_text("password\n")
    (tmp_path / "captions/b.txt").symlink_to("../secret")
    with pytest.raises(DataError, match="leads out of the source"):
        read(kind="text", path=str(tmp_path / "captions"))
