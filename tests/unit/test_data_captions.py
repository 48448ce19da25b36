"""Captions that are usable and captions that are not; the corpora they come from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.small_sources import sources, write_coco
from vqpipe.data.captions import BadCaption, clean_caption, identifier, usable_caption
from vqpipe.data.corpus import CorpusParams, read_captions
from vqpipe.data.structured_files import JsonArrays
from vqpipe.errors import DataError
from vqpipe.params.base import validate


def corpus(**fields: Any) -> Any:
    return validate(fields, "corpus", CorpusParams)  # type: ignore[arg-type]


def test_clean_caption_is_one_line_of_normal_form() -> None:
    assert clean_caption("  a red\t bus\r\n") == "a red bus"
    assert clean_caption("cafe\u0301\x00table") == "caf\u00e9 table"
    assert clean_caption(b"a bus") == "a bus"


def test_usable_caption_is_as_it_was_written() -> None:
    assert usable_caption(" a red\t\x00bus <b>\r\n") == "a red\t\x00bus <b>"
    assert usable_caption("cafe\u0301 \U0001f426".encode()) == "cafe\u0301 \U0001f426"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [("", "empty_caption"), (" \n\t", "empty_caption"), ("\u200b\u00a0", "empty_caption"),
     (b"", "empty_caption"), ("\x00\x07", "empty_caption"), ("\u0301\u200d", "empty_caption"),
     (b"caf\xe9", "caption_not_utf8"), ("caf\udce9", "caption_not_utf8"), ("\ud83d", "caption_not_utf8"),
     (None, "caption_not_text"), (7, "caption_not_text"), (["a"], "caption_not_text")],
)  # fmt: skip
def test_unusable_captions(raw: object, reason: str) -> None:
    for read in (clean_caption, usable_caption):
        with pytest.raises(BadCaption) as caught:
            read(raw)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1.0, "1"), ("1", "1"), (" 1 ", "1"), (0, "0"), (-0.0, "0"), (1e20, "100000000000000000000"),
     (1.5, "1.5"), ("1.0", "1"), ("1.50", "1.50"),
     ("01.0", "01.0"), ("007", "007"), (None, None), (True, None), (False, None), ("", None),
     (" ", None), (float("nan"), None), (float("-inf"), None), ([1], None), ({"id": 1}, None),
     ("a\udce9", "a\\udce9")],
)  # fmt: skip
def test_an_identifier_is_the_same_in_any_json_form(value: object, text: str | None) -> None:
    assert identifier(value) == text


def test_text_counts_what_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes(b"\xef\xbb\xbfa red bus\n\ncaf\xe9\nblue sky\r\n")
    lost: Counter[str] = Counter()
    assert list(read_captions(corpus(kind="text", path=str(path)), unusable=lost)) == [
        ("1", "a red bus"),
        ("4", "blue sky"),
    ]
    assert lost == {"empty_caption": 1, "caption_not_utf8": 1}


def test_tsv_columns_and_header(tmp_path: Path) -> None:
    path = tmp_path / "captions.tsv"
    path.write_text('caption\turl\na "red" bus\tx1\nshort\n\tx3\n', encoding="utf-8")
    source = corpus(kind="tsv", path=str(path), caption_column=0, id_column=1, num_header_lines=1)
    lost: Counter[str] = Counter()
    assert list(read_captions(source, unusable=lost)) == [("x1", 'a "red" bus'), ("3", "short")]
    assert lost == {"empty_caption": 1}


def test_parquet_strings_and_lists(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\5\0\0\0\6\0\0\0"), pa.py_buffer(b"a bus\xff")]
    )
    pq.write_table(pa.table({"text": bad, "key": [5, 6]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": ["a cat", None], "key": [1, 2]}), tmp_path / "a.parquet")
    lost: Counter[str] = Counter()
    source = corpus(kind="parquet", path=str(tmp_path), caption_column="text", id_column="key")
    assert list(read_captions(source, unusable=lost)) == [("1", "a cat"), ("5", "a bus")]
    assert lost == {"caption_not_text": 1, "caption_not_utf8": 1}
    pq.write_table(pa.table({"texts": [["one", "two"], ["three"]]}), tmp_path / "lists.parquet")
    source = corpus(kind="parquet", path=str(tmp_path / "lists.parquet"), caption_column="texts")
    assert list(read_captions(source)) == [("0", "one"), ("0", "two"), ("1", "three")]


def test_coco_survives_one_bad_caption(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(
        b'{"info": {"a": [1, 2]}, "annotations": [{"image_id": 3, "caption": "a bus"}, {"image_id": 4, '
        b'"caption": "caf\xe9"}, {"image_id": 5, "caption": "\\ud83d"}, 9, {"image_id": 6}], "images": []}'
    )
    lost: Counter[str] = Counter()
    assert list(read_captions(corpus(kind="coco", path=str(path)), unusable=lost)) == [("3", "a bus")]
    assert lost == {"caption_not_utf8": 2, "caption_not_text": 2}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("empty.txt", b"", "no captions at all"), ("blank.txt", b"\n\n", "2 empty_caption"),
     ("latin.txt", b"\xe9\n", "1 caption_not_utf8")],
)  # fmt: skip
def test_a_corpus_without_captions_is_an_error(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        list(read_captions(corpus(kind="text", path=str(tmp_path / name))))


def test_mistakes_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file or folder"):
        list(read_captions(corpus(kind="text", path=str(tmp_path / "none"))))
    (tmp_path / "a.txt").write_text("a bus\n", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read_captions(corpus(kind="parquet", path=str(tmp_path / "a.txt"), caption_column="x")))
    pq.write_table(pa.table({"words": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column x\n  choices:  words"):
        list(read_captions(corpus(kind="parquet", path=str(tmp_path / "a.parquet"), caption_column="x")))


@pytest.mark.parametrize(
    "text",
    ['{"a": [1, {"b": "]"}, [2]], "skip": {"c": [3]}, "d": []}', ' { "a" : [ 1 , {"b":"]"},[2] ] } \n'],
)
def test_json_arrays_are_what_json_says(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    source = JsonArrays(tmp_path / "x.json")
    found = [(element, source.text[start:end]) for _, element, start, end in source.elements("a", "d")]
    assert [element for element, _ in found] == json.loads(text)["a"]
    assert all(json.loads(own) == element for element, own in found)


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"a": [1, 2', '{"a": 3}', '{"a": [1 2]}', '{"a" [1]}', '{"b": 1,,}']
)
def test_damaged_json_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.json is not a JSON object of arrays"):
        list(JsonArrays(tmp_path / "x.json").elements("a"))


@pytest.mark.parametrize("sample", sources("coco/annotations/captions_val2017.json"))
def test_captions_of_coco(sample: Path | None, tmp_path: Path) -> None:
    total, first = 150, ("0", "A red kite over photo 0.")
    if sample is not None:
        total, first = 25014, ("179765", "A black Honda motorcycle parked in front of a garage.")
    path = sample or write_coco(tmp_path / "coco") / "annotations/captions_train2017.json"
    lost: Counter[str] = Counter()
    found = list(read_captions(corpus(kind="coco", path=str(path)), unusable=lost))
    assert len(found) + sum(lost.values()) == total
    assert found[0] == first
