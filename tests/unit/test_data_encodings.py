"""Text as people have it: encodings with and without a mark, packed files, line ends, and what is told of the rest."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vqpipe.data import text_files
from vqpipe.data.captions import Unusable
from vqpipe.data.corpus import CorpusParams, read_captions
from vqpipe.data.encodings import binary_kind, legacy_encodings, unicode_encoding
from vqpipe.errors import DataError, ParamsError
from vqpipe.params.base import validate


def read(lost: Counter[str] | None = None, **fields: Any) -> list[tuple[str, str]]:
    return list(read_captions(validate(fields, "corpus", CorpusParams), unusable=lost))  # type: ignore[arg-type]


TEXTS = {
    "english": "a small red boat on the blue sea\na tall tree\n",
    "german": "Ein kleiner roter Hund läuft über die Straße\nzwei Bäume\n",
    "russian": "маленькая красная лодка на синем море\nвысокое дерево у дома\n",
    "greek": "ένα μικρό κόκκινο καράβι στη θάλασσα\nψηλό δέντρο\n",
    "japanese": "小さな赤い船が海に浮かぶ\n高い木\n",
    "chinese": "一艘红色的小船在蓝色的海上\n一棵高大的树，在房子旁边。\n",
    "korean": "푸른 바다 위의 작은 빨간 배\n키 큰 나무\n",
    "hebrew": "סירה אדומה קטנה בים הכחול\nעץ גבוה\n",
    "hindi": "नीले समुद्र पर एक छोटी लाल नाव\n",
    "gurmukhi": "ਨੀਲੇ ਸਮੁੰਦਰ ਤੇ ਇੱਕ ਛੋਟੀ ਲਾਲ ਕਿਸ਼ਤੀ\nਰੁੱਖ\n",
    "thai": "เรือเล็กสีแดงในทะเลสีฟ้า\n",
    "mixed": "a red boat 赤い船 на море\n🌳 a tree\n",
    "one line of chinese": "一艘红色的小船在蓝色的海上",
    "one letter": "a",
}
WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", *WIDE])
def test_unicode_is_known_by_its_bytes(name: str, encoding: str) -> None:
    text = TEXTS[name]
    for variant in (text, text.replace("\n", "\r\n"), text * 300):
        assert unicode_encoding(variant.encode(encoding)) == (encoding, 0)
    marked = ("\ufeff" + text).encode(encoding)
    assert unicode_encoding(marked) == (encoding, len("\ufeff".encode(encoding)))


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"a\0b\n", b"a red\0bird\n", b"a red bird\0\n", b"a red bird\0\na blue bird\0\n", b"abc\0def\0ghij\0",
     b"caf\xe9\n", b"caf\xe9 bars\n", b"a\x1fb\n", "красная\0птица\n".encode(), "红色\0的鸟\n".encode(), b"\0\0\0\0",
     b"\x93quoted\x94",
     "小さな赤い船\n".encode("cp932"), "红色的小船\n".encode("gb18030"), "작은 빨간 배\n".encode("cp949")],
)  # fmt: skip
def test_nothing_else_is_taken_for_utf16(data: bytes) -> None:
    for text in (data, data * 50):
        assert unicode_encoding(text) == ("utf-8", 0)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", *WIDE])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_captions_in_unicode_are_read_next_to_good_ones(tmp_path: Path, encoding: str, end: str) -> None:
    captions = ["a small red boat", "", "小さな 船", "two\u2028lines\x85in\x0bone\x0c", "a tall tree 🌳"]
    (tmp_path / "a.txt").write_bytes(end.join(captions).encode(encoding))
    (tmp_path / "b.txt").write_text("a blue boat\n")
    lost: Counter[str] = Counter()
    assert read(lost, kind="text", path=str(tmp_path)) == [
        ("a.txt:1", captions[0]), ("a.txt:3", captions[2]), ("a.txt:4", captions[3].strip()),
        ("a.txt:5", captions[4]), ("b.txt:1", "a blue boat"),
    ]  # fmt: skip
    assert lost == {"empty_caption": 1}


def test_every_kind_is_read_packed_and_in_utf16(tmp_path: Path) -> None:
    table = "title\tid\na red boat\t7\n"
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        ".txt": ("a red boat\n", {"kind": "text"}),
        ".json": ('{"annotations": [{"image_id": 7, "caption": "a red boat"}]}', {"kind": "coco"}),
        ".jsonl": ('{"c": "a red boat", "k": 7}\n', {"kind": "jsonl", "caption_field": "c", "id_field": "k"}),
        ".tsv": (table, {"kind": "tsv", "caption_column": "title", "id_column": "id"}),
        ".csv": (table.replace("\t", ","), {"kind": "tsv", "caption_column": "title", "id_column": "id"}),
    }
    for ending, (text, fields) in kinds.items():
        for packing, pack in PACK.items():
            for encoding in ("utf-8", "utf-16", "utf-16-be"):
                folder = tmp_path / f"{ending}{packing}{encoding}"
                folder.mkdir()
                (folder / f"captions{ending}.{packing}").write_bytes(pack(text.encode(encoding)))
                found = read(path=str(folder), **fields)
                assert [caption for _, caption in found] == ["a red boat"], folder
                assert found[0][0] in ("7", f"captions.txt.{packing}:1")


def test_several_members_are_one_file_and_damage_is_reported(tmp_path: Path) -> None:
    for packing, pack in PACK.items():
        path = tmp_path / f"c.{packing}"
        path.write_bytes(pack(b"a red boat\n") + pack(b"a blue boat\n"))
        assert read(kind="text", path=str(path)) == [("1", "a red boat"), ("2", "a blue boat")]
        whole = pack("".join(f"a red boat {at}\n" for at in range(2000)).encode())
        for damaged in (whole[:-20], whole[: len(whole) // 2], whole[:12]):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=r"c\.\w+ cannot be read: .*\n +expected: a whole file"):
                read(kind="text", path=str(path))


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"PK\x03\x04\x14\x00\x00\x00\x08\x00" * 5)
    with pytest.raises(DataError, match=r"is not text\n +found: +a zip file"):
        read(kind="text", path=str(tmp_path / "c.txt"))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(gzip.compress(b"a red boat\n" * 9)))
    with pytest.raises(DataError, match="a gzip file"):
        read(kind="text", path=str(tmp_path / "c.txt.gz"))
    assert binary_kind(b"PAR1 is a lamp, GIF89a is a format\n") is None
    with pytest.raises(DataError, match=r"found: +a gzip file\n +expected: a Parquet file, not packed"):
        read(kind="parquet", path=str(tmp_path / "c.txt.gz"), caption_column="c")


CODED = {
    "cp1252": "un café très chaud à côté d’une fenêtre\nzwei Bäume und ein “Haus”\n",
    "cp1250": "mała czerwona łódź na niebieskim morzu\nžlutý kůň\n",
    "cp1251": TEXTS["russian"],
    "koi8_r": TEXTS["russian"],
    "cp866": TEXTS["russian"],
    "cp1253": TEXTS["greek"],
    "mac_roman": "un café très chaud à côté d’une fenêtre\n",
    "cp850": "zwei Bäume über der Straße und ein café\n",
    "cp932": TEXTS["japanese"],
    "euc_jp": TEXTS["japanese"],
    "cp949": TEXTS["korean"],
    "gb18030": TEXTS["chinese"],
    "big5": "一艘紅色的小船在藍色的海上\n一棵高大的樹\n",
}


@pytest.mark.parametrize("encoding", CODED)
def test_an_older_encoding_is_an_error_that_names_it_and_the_option(tmp_path: Path, encoding: str) -> None:
    path, text = tmp_path / "c.txt", CODED[encoding] + "a red boat\n"
    path.write_bytes(text.encode(encoding))
    assert legacy_encodings(text.encode(encoding))[0] == encoding
    with pytest.raises(
        DataError, match=f"(?s)is not in UTF-8; it looks like {encoding}.*{encoding} «.*encoding: "
    ) as told:
        read(kind="text", path=str(path))
    assert any(word in str(told.value) for word in text.split())
    assert [
        caption for _, caption in read(kind="text", path=str(path), encoding=encoding)
    ] == text.splitlines()
    lost: Counter[str] = Counter()
    assert read(lost, kind="text", path=str(path), encoding="utf-8")[-1][1] == "a red boat"
    assert lost["caption_not_utf8"] == len(text.splitlines()) - 1


def test_an_older_encoding_is_found_in_every_kind_and_folder(tmp_path: Path) -> None:
    rows = ["café", "naïve bird", "a red bird"]
    files = {
        "c.json": json.dumps({"annotations": [{"image_id": 1, "caption": row} for row in rows]}, ensure_ascii=False),
        "c.jsonl": "\n".join(json.dumps({"c": row}, ensure_ascii=False) for row in rows),
        "c.tsv": "\n".join(rows),
        "c.txt": "\n".join(rows),
    }  # fmt: skip
    kinds: dict[str, dict[str, Any]] = {
        "json": {"kind": "coco"},
        "jsonl": {"kind": "jsonl", "caption_field": "c"},
        "tsv": {"kind": "tsv", "caption_column": 0},
        "txt": {"kind": "text"},
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))
        (tmp_path / f"a{name}").write_bytes(b"" if name != "c.json" else b"[]")
        with pytest.raises(DataError, match=f"{name} is not in UTF-8; it looks like cp1252"):
            read(path=str(tmp_path), **kinds[name[2:]])
        found = read(path=str(tmp_path), encoding="latin-1", **kinds[name[2:]])
        assert [caption for _, caption in found] == rows


def test_damage_in_a_good_file_is_counted_and_is_no_other_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.txt"
    lost: Counter[str] = Counter()
    path.write_bytes("ein Café\nzwei Bäume\n".encode() + b"caf\xe9\nB\xe4ume\n")
    assert len(read(lost, kind="text", path=str(path))) == 2
    assert lost == {"caption_not_utf8": 2}
    path.write_bytes("\ufeff".encode() + b"caf\xe9 B\xe4ume\na red bird\n")
    assert read(kind="text", path=str(path)) == [("2", "a red bird")]
    path.write_bytes(b"a red bird\n" * 100 + b"caf\xe9\nB\xe4ume\n")
    with pytest.raises(DataError, match="looks like cp1252"):
        read(kind="text", path=str(path))
    monkeypatch.setattr(text_files, "LEGACY_BYTES", 500)
    assert len(read(kind="text", path=str(path))) == 100


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_nothing_depends_on_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    text = "ein Café\r\rzwei\r\r\nBäume 🌳\r\n\n船\n\r\nend\r"
    expected = ["ein Café", "", "zwei", "Bäume 🌳", "", "船", "", "end"]
    monkeypatch.setattr(text_files, "BLOCK", block)
    (tmp_path / "c.txt").write_bytes(text.encode())
    assert [line.decode() for _, line in text_files.lines(tmp_path / "c.txt")] == expected
    (tmp_path / "c.txt").write_bytes(("\ufeff" + text).encode("utf-16-le"))
    if block > 3:
        assert [line.decode() for _, line in text_files.lines(tmp_path / "c.txt")] == expected
    (tmp_path / "c.txt").write_bytes(("Ä " + text).encode("cp1252", "replace"))
    with pytest.raises(DataError, match=r"looks like cp1252\n +found: +3 places"):
        list(text_files.lines(tmp_path / "c.txt"))


def test_wrong_and_damaged_encodings(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    for name in ("nonsense", "base64", "utf-9", "hex", ""):
        with pytest.raises(ParamsError, match=r"corpus\.encoding: is not an encoding"):
            read(kind="text", path=str(path), encoding=name)
    odd = "a red boat\n".encode("utf-16-le") + b"\x3d\xd8\n\x00" + "a blue boat".encode("utf-16-le") + b"x"
    path.write_bytes(odd)
    lost: Counter[str] = Counter()
    assert read(lost, kind="text", path=str(path)) == [("1", "a red boat")]
    assert lost == {"caption_not_utf8": 2}
    for data in ("a red boat".encode("utf-16-be"), "a red boat".encode("utf-16-le")):
        path.write_bytes(data)
        assert read(kind="text", path=str(path), encoding="utf-16") == [("1", "a red boat")]
    path.write_text("ein Café\nzwei Bäume\nnaïve\n")
    with pytest.raises(DataError, match=r"is in UTF-8, not in latin-1\n +found: +3 places"):
        read(kind="text", path=str(path), encoding="latin-1")
    path.write_bytes(b"a red boat\n" * 9 + "a blue boat\na green boat\n".encode("utf-16-le"))
    lost = Counter()
    assert {text for _, text in read(lost, kind="text", path=str(path))} == {"a red boat"}
    assert lost["caption_not_utf8"] == 2
    path.write_bytes("a red boat\nein Café".encode("utf-16"))
    assert read(kind="text", path=str(path), encoding="cp1252")[1] == ("2", "ein Café")  # the mark says more


@pytest.mark.parametrize("size", [200, 3000])
def test_the_strings_of_a_long_line_are_cut_and_it_stays_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE", 64)
    monkeypatch.setattr(text_files, "BLOCK", 50)
    path = tmp_path / "c.jsonl"
    for unit in ("ab ", "é", "🌳", '"', "\\", "\n", "\u2028"):
        text = unit * size
        for ascii_only in (True, False):
            rows: list[Any] = [
                {"image": "x" * size, "n": [1, {"deep": "y" * size}], "c": "s" + text, "k": 7},
                {"c": "a red boat", "k": 8},
            ]
            path.write_text("\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows) + "\n")
            found = read(kind="jsonl", path=str(path), caption_field="c", id_field="k")
            assert [name for name, _ in found] == ["7", "8"]
            long = found[0][1]
            assert ("s" + text).startswith(long)
            assert 1 <= len(long) <= 64
            if unit not in "\n\u2028":  # white space at the end is not kept
                assert 50 <= len(json.dumps(long, ensure_ascii=ascii_only).encode()) <= 66


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_list_longer_than_a_line_may_be_is_read_as_far_as_that(
    wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqpipe.data.adapters.caption_files.MAX_JSON_LINE", 1 << 14)
    monkeypatch.setattr(text_files, "MAX_JSON_LINE", 1 << 14)
    monkeypatch.setattr(text_files, "MAX_LINE", 1 << 10)
    captions = [f"a red, wet dog, number {number}" for number in range(2_000)]
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"k": 1, "c": captions} if wrapped else captions) + '\n{"c": "a bus"}\n')
    lost = Unusable()
    found = [caption for _, caption in read(lost, kind="jsonl", path=str(path), caption_field="c")]
    assert found.pop() == "a bus"
    assert len(found) > 400
    assert found == captions[: len(found)]
    assert not lost


def test_a_caption_of_five_megabytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(
        json.dumps({"image": "x" * 3_000_000, "c": "red " * 1_250_000, "k": 1}) + '\n{"c": "a bus"}\n'
    )
    lost = Unusable()
    found = read(lost, kind="jsonl", path=str(path), caption_field="c")
    assert [name for name, _ in found] == ["1", "2"]
    assert not lost
    assert 1_000_000 < len(found[0][1]) <= text_files.MAX_LINE
