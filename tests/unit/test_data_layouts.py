"""Which layout of images with captions is seen at a path, and what is said where that is not clear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pair_layouts import File, images, picture, put, put_tar
from tests.unit.test_data_pairs import read, said
from vqpipe.data.adapters.layouts import recognise
from vqpipe.data.corpus import read_captions
from vqpipe.errors import DataError
from vqpipe.params.base import validate
from vqpipe.params.corpus import CorpusParams


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
