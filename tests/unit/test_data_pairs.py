"""Images with captions: each layout and how it is recognised, odd names and encodings, and what leads out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pair_layouts import File, images, picture, put, put_tar
from vqpipe.data.adapters import ADAPTERS
from vqpipe.data.adapters.layouts import recognise
from vqpipe.data.adapters.listings import split_within, splits_of
from vqpipe.data.build import Source
from vqpipe.data.corpus import CorpusParams, read_captions
from vqpipe.data.records import Bad, Record
from vqpipe.errors import DataError, ParamsError
from vqpipe.params.base import validate

HOLDOUT = {"validation": 0.1, "test": 0.1, "seed": 0}


def source(path: Path, **fields: Any) -> Any:
    return validate({"kind": "pairs", "path": str(path), "holdout": HOLDOUT, **fields}, "source", Source)  # type: ignore[arg-type]


def read(path: Path, **fields: Any) -> tuple[dict[str, Record], set[tuple[str, str]], dict[str, str]]:
    """Records by id, (item, reason) of what was left out, and the split of each record."""
    config = source(path, **fields)
    plan = ADAPTERS["pairs"]().plan(config, 1 << 16)
    records: dict[str, Record] = {}
    splits: dict[str, str] = {}
    bad: list[Bad] = []
    for chunk in plan.chunks:
        for entry in ADAPTERS["pairs"]().load(config, chunk, 1 << 16):
            if isinstance(entry, Bad):
                bad.append(entry)
            else:
                records[entry.image_id], splits[entry.image_id] = entry, chunk.split
    return records, {(one.item, one.reason) for one in [*(one for _, one in plan.bad), *bad]}, splits


def said(records: dict[str, Record]) -> dict[str, tuple[str, ...]]:
    return {name: record.captions for name, record in records.items()}


# ---------------------------------------------------------------- files side by side


@pytest.mark.parametrize(
    ("data", "captions"),
    [(b"one\n\n two \r\nthree\rfour", ("one", "two", "three", "four")), (b"\xef\xbb\xbfone", ("one",)),
     ("a café".encode("utf-16"), ("a café",)), ("a plain green house".encode("utf-16-le"), ("a plain green house",)),
     ("a cafe\u0301\u2028here".encode(), ("a café here",)), (b"a\x0bb", ("a b",))],
)  # fmt: skip
def test_a_text_file_has_a_caption_a_line(tmp_path: Path, data: bytes, captions: tuple[str, ...]) -> None:
    put(tmp_path, ("a/b ü/x 1.JPG", picture(0)), ("a/b ü/x 1.txt", data))
    records, bad, _ = read(tmp_path)
    assert (said(records), bad) == ({"a/b ü/x 1.JPG": captions}, set())


def test_what_belongs_to_an_image(tmp_path: Path) -> None:
    put(tmp_path, *((f"{name}.jpg", picture(0)) for name in "abcdef"), ("a.txt", "text"),
        ("a.json", '{"caption": "no"}'),
        ("b.caption", "dot caption"), ("c.jpg.txt", "whole name"), ("d.json", '{"text": ["one", "two\\nlines"]}'),
        ("e.v2.png", picture(1, "PNG")), ("e.v2.txt", "dotted"), ("e.txt", "plain"), ("f.TXT", "upper"),
        ("a.npy", "x"))  # fmt: skip
    records, bad, _ = read(tmp_path)
    assert bad == set()
    assert said(records) == {
        "a.jpg": ("text",), "b.jpg": ("dot caption",), "c.jpg": ("whole name",), "d.jpg": ("one", "two lines"),
        "e.jpg": ("plain",), "e.v2.png": ("dotted",), "f.jpg": ("upper",),
    }  # fmt: skip
    assert said(read(tmp_path, caption_field="caption")[0])["a.jpg"] == ("no",)


def test_what_has_no_partner_is_named(tmp_path: Path) -> None:
    put(tmp_path, ("d/a.jpg", picture(0)), ("d/a.png", picture(1, "PNG")), ("d/a.txt", "both"),
        ("d/alone.jpg", picture(2)),
        ("d/empty.jpg", picture(3)), ("d/empty.txt", ""), ("d/lost.txt", "x"), ("d/lost.heic", "x"),
        ("README.txt", "x"),
        ("d/latin.jpg", picture(4)), ("d/latin.txt", "caf\xe9".encode("latin-1")), ("d/bad.jpg", picture(5)),
        ("d/bad.json", "{"), ("d/cut.jpg", picture(6)[:200]), ("d/cut.txt", "x"), ("d/._a.jpg", "mac"),
        ("d/big.jpg", picture(7)), ("d/big.txt", "x" * (1 << 21)), ("00000_stats.json", "{}"))  # fmt: skip
    records, bad, _ = read(tmp_path)
    assert list(records) == ["d/a.jpg"]
    assert {item: reason for item, reason in bad if reason not in ("no_caption",)} == {
        "d/a.png": "duplicate_id", "d/empty.jpg": "empty_caption", "d/lost.txt": "orphan_annotation",
        "d/lost.heic": "other_file", "README.txt": "other_file", "d/latin.jpg": "caption_not_utf8",
        "d/bad.jpg": "bad_annotation", "d/cut.jpg": "truncated", "d/._a.jpg": "hidden", "d/big.jpg": "bad_annotation",
    }  # fmt: skip
    assert {item for item, reason in bad if reason == "no_caption"} == {
        "d/alone.jpg", "d/empty.jpg", "d/latin.jpg", "d/bad.jpg", "d/big.jpg",
    }  # fmt: skip
    assert said(read(tmp_path, encoding="latin-1")[0])["d/latin.jpg"] == ("café",)


def test_classes_of_folders_and_splits_of_folders(tmp_path: Path) -> None:
    for split in ("train2017", "val", "test"):
        put(tmp_path, *((f"all/{split}/{label}/1.{end}", picture(0) if end == "jpg" else "x")
                        for label in ("red_owl", "ant") for end in ("jpg", "txt")))  # fmt: skip
    records, _, splits = read(tmp_path, classes="folders")
    assert {(r.label, r.label_name) for r in records.values()} == {(0, "ant"), (1, "red owl")}
    assert splits["all/val/ant/1.jpg"] == "validation"
    assert splits["all/test/ant/1.jpg"] == "test"
    assert splits["all/train2017/ant/1.jpg"] == "train"
    # A class that is called like a split is a class: there is no folder `train`, or one that is none.
    put(tmp_path / "b", *((f"{label}/{n}.{end}", picture(n) if end == "jpg" else "x")
                          for label in ("train", "bus") for n in range(9) for end in ("jpg", "txt")))  # fmt: skip
    records, _, splits = read(
        tmp_path / "b", classes="folders", holdout={"validation": 0.4, "test": 0.1, "seed": 0}
    )
    assert {record.label_name for record in records.values()} == {"train", "bus"}
    assert "validation" in splits.values()


def test_names_state_splits_only_together() -> None:
    assert splits_of(["x-train-00.tar", "x-val-00.tar"]) == {
        "x-train-00.tar": "train",
        "x-val-00.tar": "validation",
    }
    assert splits_of(["val/0.tar", "val/1.tar"]) is None
    assert splits_of(["train/0.tar", "more/1.tar"]) is None
    assert split_within("train_val.csv") is None
    assert split_within("trains/0.tar") is None


# ---------------------------------------------------------------- WebDataset


def test_members_in_any_order_and_keys_in_many_shards(tmp_path: Path) -> None:
    for shard in range(2):
        files: list[File] = [("./1.json", f'{{"caption": "one of {shard}"}}'), ("./1.JPG", picture(shard)),
                             ("./2.webp", picture(2 + shard, "WEBP")), ("./3.png", picture(4 + shard, "PNG")),
                             ("./2.txt", f"two of {shard}"), ("./3.txt", f"three\n{shard}")]  # fmt: skip
        put_tar(tmp_path / "deep er" / f"é{shard}.tar", files)
    put(tmp_path, ("x.parquet", "PAR1"), ("0_stats.json", "{}"), ("index.json", "[]"))
    records, bad, _ = read(tmp_path)
    assert bad == set()
    assert said(records) == {
        f"deep er/é{shard}.tar/{name}": captions
        for shard in range(2)
        for name, captions in (
            ("1.JPG", (f"one of {shard}",)), ("2.webp", (f"two of {shard}",)), ("3.png", ("three", str(shard))),
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.txz", "w:xz")]
)
def test_one_shard_and_packed_shards(tmp_path: Path, name: str, mode: str) -> None:
    path = put_tar(tmp_path / name, [("d/1.jpg", picture(0)), ("d/1.txt", "x"), ("d/1.cls", "7")], mode)
    records, bad, _ = read(path)
    assert (said(records), bad) == ({"d/1.jpg": ("x",)}, set())
    assert (records["d/1.jpg"].label, records["d/1.jpg"].label_name) == (0, "7")


def test_odd_members(tmp_path: Path) -> None:
    path = put_tar(tmp_path / "a.tar", [
        ("a.b.jpg", picture(0)), ("a.txt", "by its key"), ("c.left.jpg", picture(1)), ("c.right.jpg", picture(2)),
        ("c.txt", "for both"), ("e.1.jpg", picture(3)), ("e.1.txt", "first"), ("e.2.jpg", picture(4)),
        ("e.2.txt", "second"),
        ("._a.b.jpg", b"mac"), ("__MACOSX/._a.b.jpg", b"mac"), ("../x.jpg", picture(5)), ("/y.jpg", picture(6)),
        ("a.b.jpg", picture(7)), ("lost.txt", "no image"), ("n.jpg", picture(8)), ("a.npy", b"x"), ("z.npy", b"x"),
        ("10.jpg", picture(9)), ("10.json", "not json"), ("11.jpg", picture(10)), ("11.json", '{"caption": null}'),
    ])  # fmt: skip
    records, bad, _ = read(path, layout="webdataset")
    assert said(records) == {
        "a.b.jpg": ("by its key",), "c.left.jpg": ("for both",), "e.1.jpg": ("first",), "e.2.jpg": ("second",),
    }  # fmt: skip
    assert bad == {
        ("._a.b.jpg", "hidden"), ("__MACOSX/._a.b.jpg", "hidden"), ("../x.jpg", "unsafe_path"),
        ("/y.jpg", "unsafe_path"),
        ("a.b.jpg", "duplicate_id"), ("c.right.jpg", "duplicate_id"), ("lost.txt", "orphan_annotation"),
        ("n.jpg", "no_caption"), ("z.npy", "other_file"), ("10.jpg", "bad_annotation"), ("10.jpg", "no_caption"),
        ("11.jpg", "no_caption"),
    }  # fmt: skip


def test_a_shard_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    put_tar(tmp_path / "b.tar", [("1.jpg", picture(0)), ("1.txt", "x")])
    (tmp_path / "c.tar").symlink_to("b.tar")
    (tmp_path / "gone.tar").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(".")
    records, bad, _ = read(tmp_path)
    assert said(records) == {"b.tar/1.jpg": ("x",)}
    assert bad == {("c.tar", "duplicate_path"), ("gone.tar", "missing_file"), ("loop", "duplicate_path")}


def test_members_with_endings_of_several_parts(tmp_path: Path) -> None:
    files: list[File] = [
        ("1.image.jpg", picture(0)), ("1.caption.txt", "one"), ("1.label.cls", "4"), ("2.meta.json", '{"text": "two"}'),
        ("2.jpg", picture(1)), ("3.a.jpg", picture(2)), ("3.b.jpg", picture(3)), ("3.caption.txt", "three"),
    ]  # fmt: skip
    records, bad, _ = read(put_tar(tmp_path / "a.tar", files), classes="none")
    assert said(records) == {"1.image.jpg": ("one",), "2.jpg": ("two",), "3.a.jpg": ("three",)}
    assert bad == {("3.b.jpg", "duplicate_id")}


def test_classes_of_shards(tmp_path: Path) -> None:
    files: list[File] = []
    for number, label in enumerate(("10", "2", "x y\n", None)):
        files += [(f"{number}.jpg", picture(number)), (f"{number}.txt", "a")]
        files += [(f"{number}.cls", label)] if label is not None else []
    path = put_tar(tmp_path / "a.tar", files)
    records, bad, _ = read(path)
    assert [(r.label, r.label_name) for _, r in sorted(records.items())] == [(1, "10"), (0, "2"), (2, "x y")]
    assert bad == {("3.jpg", "no_class")}
    assert {record.label for record in read(path, classes="none")[0].values()} == {None}


def test_a_cut_shard_is_an_error(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("1.jpg", picture(0)), ("1.txt", "x")])
    path = put_tar(tmp_path / "1.tar", [("2.jpg", picture(0)), ("2.txt", "x")])
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"1\.tar is not a sound tar"):
        read(tmp_path)


# ---------------------------------------------------------------- lists


FLICKR = "".join(f'{n}.jpg#{at}\t"caption {n} {at}\n' for n in range(3) for at in range(2))


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [("a.csv", 'Image,x,Caption\n0.jpg,1,"a, ""b"""\n0.jpg,2,"two\nlines"\n', {"0.jpg": ('a, "b"', "two lines")}),
     ("a.tsv", "filepath\ttitle\r\n.\\0.jpg\tone\r\n", {"0.jpg": ("one",)}),
     ("results.csv", "image_name| comment_number| comment\n0.jpg| 0| one , two .\n", {"0.jpg": ("one , two .",)}),
     ("captions.txt", "image,caption\n0.jpg,one\n", {"0.jpg": ("one",)}),
     ("f.token.tsv", FLICKR, {f"{n}.jpg": (f'"caption {n} 0', f'"caption {n} 1') for n in range(3)}),
     ("a.jsonl", '\n{"image": "0.jpg", "captions": ["one", "two"]}\n', {"0.jpg": ("one", "two")}),
     ("a.json", '[{"image": "./0.jpg", "caption": "one"}, {"image": "0.jpg", "caption": ["two"]}]',
      {"0.jpg": ("one", "two")}),
     ("a.json", '{"0.jpg": ["one", "two"], "1.jpg": "three"}', {"0.jpg": ("one", "two"), "1.jpg": ("three",)}),
     ("a.json", '{"data": [{"file_name": "0.jpg", "text": "one"}]}', {"0.jpg": ("one",)}),
     ("a.json", '{"images": [{"filename": "0.jpg", "sentids": [1], "sentences": [{"raw": "one"}], "split": "train"}]}',
      {"0.jpg": ("one",)})],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("folder", ["", "my pictures/"])
def test_lists(tmp_path: Path, name: str, text: str, wanted: Any, encoding: str, folder: str) -> None:
    put(tmp_path, *images(folder), (name, text.encode(encoding)))
    records, bad, _ = read(tmp_path)
    assert (said(records), bad) == (
        {f"{folder}{image}": captions for image, captions in wanted.items()},
        set(),
    )


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    table = "image,caption\n0.jpg,\n1.jpg,good\n2.jpg\n../3.jpg,x\n/etc/4.jpg,x\nC:\\5.jpg,x\n,no image\ngone.jpg,x\n"
    put(tmp_path, *images(), ("a.csv", table))
    records, bad, _ = read(tmp_path)
    assert said(records) == {"1.jpg": ("good",)}
    assert bad == {
        ("0.jpg", "empty_caption"), ("0.jpg", "no_caption"), ("2.jpg", "no_caption"), ("../3.jpg", "unsafe_path"),
        ("/etc/4.jpg", "unsafe_path"), ("C:\\5.jpg", "unsafe_path"), ("a.csv, line 8", "bad_annotation"),
        ("gone.jpg", "missing_file"),
    }  # fmt: skip


def test_text_of_lists_as_tools_write_it(tmp_path: Path) -> None:
    comma = "image,caption\n0.jpg,A child , in pink .\n1.jpg,a dog,,\n"
    put(tmp_path / "comma", *images(), ("a.csv", comma))
    assert said(read(tmp_path / "comma")[0]) == {"0.jpg": ("A child , in pink .",), "1.jpg": ("a dog",)}
    put(tmp_path / "first", *images(), ("a.csv", "caption,image\na dog, a cat,0.jpg\na bus,1.jpg\n"))
    records, bad, _ = read(tmp_path / "first")
    assert said(records) == {"1.jpg": ("a bus",)}
    assert ("a.csv, line 2", "bad_annotation") in bad
    sentences = [{"tokens": ["a", "red", "boat"], "sentid": 0}]
    karpathy = {"images": [{"filename": "0.jpg", "split": "train", "sentences": sentences}]}
    put(tmp_path / "tokens", *images(), ("dataset_x.json", json.dumps(karpathy)))
    assert said(read(tmp_path / "tokens")[0]) == {"0.jpg": ("a red boat",)}
    put(
        tmp_path / "null",
        *images(),
        *((f"{at}.json", '{"caption": null, "text": "a bus"}') for at in range(3)),
    )
    assert set(said(read(tmp_path / "null")[0]).values()) == {("a bus",)}


def test_splits_of_lists(tmp_path: Path) -> None:
    rows = [
        ("0", "train"),
        ("1", "restval"),
        ("2", "val"),
        ("3", "test"),
        ("4", "extra"),
        ("2", "test"),
        ("2", "val"),
    ]
    put(
        tmp_path / "a",
        *images(),
        (
            "a.csv",
            "image,caption,split\n"
            + "".join(f"{n}.jpg,x{at},{split}\n" for at, (n, split) in enumerate(rows)),
        ),
    )
    records, bad, splits = read(tmp_path / "a")
    assert splits == {"0.jpg": "train", "1.jpg": "train", "2.jpg": "validation", "3.jpg": "test"}
    assert records["2.jpg"].captions == ("x2", "x6")
    assert bad == {("4.jpg", "bad_annotation"), ("2.jpg", "duplicate_id")}
    assert set(read(tmp_path / "a", own_splits=False)[0]) == {f"{n}.jpg" for n in range(5)}
    lists = [
        (f"ann_{split}.json", json.dumps({f"{n}.jpg": ["x"]}))
        for n, split in enumerate(("train", "val", "test"))
    ]
    put(tmp_path / "b", *images(), *lists)
    assert read(tmp_path / "b")[2] == {"0.jpg": "train", "1.jpg": "validation", "2.jpg": "test"}


def test_splits_as_keys_of_a_json(tmp_path: Path) -> None:
    content = {
        split: [{"image": f"{n}.jpg", "caption": "x"}] for n, split in enumerate(("train", "val", "test"))
    }
    put(tmp_path, *images(), ("a.json", json.dumps(content)))
    assert read(tmp_path)[2] == {"0.jpg": "train", "1.jpg": "validation", "2.jpg": "test"}


def test_a_metadata_file_in_each_split(tmp_path: Path) -> None:
    for split, name in (("train", "metadata.jsonl"), ("test", "metadata.csv"), ("valid", "METADATA.JSONL")):
        row = (
            '{"file_name": "ü 0.jpg", "text": "x"}'
            if name.lower().endswith("jsonl")
            else "file_name,text\nü 0.jpg,x\n"
        )
        put(tmp_path / split, ("ü 0.jpg", picture(0)), ("1.jpg", picture(1)), (name, row))
    _, bad, splits = read(tmp_path)
    assert splits == {"train/ü 0.jpg": "train", "test/ü 0.jpg": "test", "valid/ü 0.jpg": "validation"}
    assert bad == {(f"{split}/1.jpg", "no_caption") for split in ("train", "test", "valid")}
    put(tmp_path / "train", ("metadata.csv", "file_name,text\n1.jpg,x\n"))
    with pytest.raises(DataError, match=r"several files list images(.|\n)*train/metadata\.csv"):
        read(tmp_path)


def test_options_of_lists(tmp_path: Path) -> None:
    put(
        tmp_path,
        *images("pics/"),
        *images("small/"),
        ("odd.csv", "key;said;class\n0.jpg;one;owl\n1.jpg;two;ant\n"),
    )
    named = {"listing": "odd.csv", "images": "pics", "image_field": "key", "caption_field": "said"}
    records, bad, _ = read(tmp_path, **named, label_field="class")
    assert (said(records), bad) == ({"pics/0.jpg": ("one",), "pics/1.jpg": ("two",)}, set())
    assert [record.label_name for _, record in sorted(records.items())] == ["owl", "ant"]
    with pytest.raises(
        DataError, match=r"caption_field: (.|\n)*no column text\n  choices:  key, said, class"
    ):
        read(tmp_path, **{**named, "caption_field": "text"})
    put(tmp_path, ("n.jsonl", '{"a": {"f": "0.jpg"}, "b": {"c": "deep"}}'))
    records, _, _ = read(tmp_path, listing="n.jsonl", images="pics", image_field="a.f", caption_field="b.c")
    assert said(records) == {"pics/0.jpg": ("deep",)}
    put(tmp_path, ("old.csv", "image,caption\n0.jpg,caf\xe9 au lait\n1.jpg,na\xefve\n".encode("cp1252")))
    with pytest.raises(DataError, match=r"dataset\.source\.encoding"):
        read(tmp_path, listing="old.csv", images="pics")
    assert said(read(tmp_path, listing="old.csv", images="pics", encoding="cp1252")[0])["pics/1.jpg"] == (
        "naïve",
    )
    with pytest.raises(ParamsError, match="must be relative"):
        source(tmp_path, listing="../a.csv")
    with pytest.raises(ParamsError, match="not an encoding"):
        source(tmp_path, encoding="cp9999")


def test_what_a_link_puts_outside_of_the_source_is_not_read(tmp_path: Path) -> None:
    root = put(
        tmp_path / "source",
        *(("a.png", picture(1)), ("a.txt", "a bird"), ("b.png", picture(2)), ("b.txt", "a cat")),
    )
    for name in ("b.txt", "b.png"):
        (root / name).rename(tmp_path / name)
        (root / name).symlink_to(tmp_path / name)
    records, bad, _ = read(root)
    assert list(records) == ["a.png"]
    assert {("b.png", "unsafe_path"), ("b.txt", "unsafe_path")} <= bad


def test_what_is_not_clear_is_asked(tmp_path: Path) -> None:
    put(tmp_path / "both", *images(), ("0.txt", "x"), ("a.csv", "image,caption\n1.jpg,x\n"))
    with pytest.raises(DataError, match=r"several layouts(.|\n)*choices:  table, folder"):
        read(tmp_path / "both")
    assert said(read(tmp_path / "both", layout="folder")[0]) == {"0.jpg": ("x",)}
    put(tmp_path / "plain", *images())
    with pytest.raises(DataError, match="no images with captions are seen in"):
        read(tmp_path / "plain")
    put(tmp_path / "two", *images("a/"), *images("b/"), ("a.csv", "image,caption\n1.jpg,x\n"))
    with pytest.raises(DataError, match=r"source\.images: where are (.|\n)*in each of a, b"):
        read(tmp_path / "two")
    put(tmp_path / "none", ("a.csv", "image,caption\n1.jpg,x\n"))
    with pytest.raises(DataError, match=r"source\.images: where are (.|\n)*none of the first 1"):
        read(tmp_path / "none")
    put(
        tmp_path / "lists",
        *images(),
        ("a.csv", "image,caption\n1.jpg,x\n"),
        ("b.csv", "image,caption\n2.jpg,x\n"),
    )
    with pytest.raises(DataError, match=r"source\.listing: several files(.|\n)*a\.csv, b\.csv"):
        read(tmp_path / "lists")
    assert set(read(tmp_path / "lists", listing="*.csv")[0]) == {"1.jpg", "2.jpg"}
    with pytest.raises(DataError, match=r"is a file; name its folder(.|\n)*listing: a\.csv"):
        read(tmp_path / "lists" / "a.csv")
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        read(tmp_path / "nowhere")
    coco = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "x"}]}
    put(tmp_path / "coco", *images(), ("ann/captions.json", json.dumps(coco)))
    with pytest.raises(DataError, match=r"COCO's layout(.|\n)*ann/captions\.json(.|\n)*preset coco"):
        read(tmp_path / "coco")


def test_a_corpus_names_the_source_that_reads_its_path(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("1.jpg", picture(0)), ("1.txt", "x")])
    corpus: Any = validate({"kind": "text", "path": str(tmp_path)}, "corpus", CorpusParams)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"kind: pairs, path: .*, layout: webdataset"):
        list(read_captions(corpus))
    assert recognise(tmp_path) == "webdataset"
    assert recognise(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "files",
    [[("1.jpg", picture(0)), ("1.txt", "0 0.5 0.5 0.25 0.25\n")], [("1.jpg", picture(0)), ("1.json", '{"shapes": []}')],
     [("1.jpg", picture(0)), ("1.cls", "3")], [("1.jpg", picture(0)), ("a.csv", "filename,label\n1.jpg,3\n")],
     [("1.jpg", picture(0)), ("a.json", '[{"image": "1.jpg", "label": 3}]')],
     [("1.jpg", picture(0)), ("README.txt", "x")],
     [("1.jpg", picture(0)), ("2.txt", "of no image")], []],
)  # fmt: skip
def test_files_without_captions_are_no_pairs(tmp_path: Path, files: list[File]) -> None:
    assert recognise(put(tmp_path, *files)) is None


@pytest.mark.parametrize("layout", ["folder", "webdataset"])
def test_options_of_lists_are_refused_where_no_list_is_read(tmp_path: Path, layout: str) -> None:
    put(tmp_path, *images(), ("0.txt", "one"), ("1.txt", "two"))
    with pytest.raises(
        DataError,
        match=rf"the layout {layout} does not read listing, label_field\n  found: +listing: no\.csv, label_f",
    ):
        read(tmp_path, layout=layout, listing="no.csv", label_field="label")
