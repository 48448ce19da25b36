"""The image folder source: links and hidden files in folders and tars alike, no image in two splits, clear errors."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vqpipe.data.adapters import ADAPTERS
from vqpipe.data.adapters.image_folder import ImageFolderSource
from vqpipe.data.records import Bad
from vqpipe.errors import DataError
from vqpipe.params.base import validate

FOLDERS = {"train": "train", "validation": "val", "test": "test"}


def source(path: Path, **changes: Any) -> ImageFolderSource:
    fields = {"kind": "image_folder", "path": str(path), "splits": FOLDERS, "templates": ["a {}"],
              "holdout": {"validation": 0.0, "test": 0.0, "seed": 0}, "classes": "folders", **changes}  # fmt: skip
    return validate(fields, "dataset.source", ImageFolderSource)


def lay_out(root: Path) -> Path:
    for number, name in enumerate(("train/ant/1.JPG", "train/ant/2.jfif", "val/ant/3.png", "test/ant/4.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / name, "PNG")
    return root


def read(config: ImageFolderSource) -> tuple[list[tuple[str, str]], dict[str, tuple[str, str]]]:
    """(split, id) of every image, and (split, reason) of every item that is left out."""
    adapter = ADAPTERS[config.kind]()
    planned = adapter.plan(config, 1 << 16)
    done = [
        (chunk.split, entry) for chunk in planned.chunks for entry in adapter.load(config, chunk, 1 << 16)
    ]
    bad = [*planned.bad, *((split, entry) for split, entry in done if isinstance(entry, Bad))]
    images = [(str(split), entry.image_id) for split, entry in done if not isinstance(entry, Bad)]
    return images, {entry.item: (split, entry.reason) for split, entry in bad}


ALL = [("test", "test/ant/4.png"), ("train", "train/ant/1.JPG"), ("train", "train/ant/2.jfif"),
       ("validation", "val/ant/3.png")]  # fmt: skip


def test_linked_copies_are_in_one_split(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "test/all").symlink_to("../train")
    (tmp_path / "train/ant/copy.png").symlink_to("../../test/ant/4.png")
    os.link(tmp_path / "test/ant/4.png", tmp_path / "val/ant/hard.png")
    images, bad = read(source(tmp_path))
    assert images == ALL
    assert bad == {
        "test/all": ("test", "duplicate_path"), "train/ant/copy.png": ("train", "duplicate_path"),
        "val/ant/hard.png": ("validation", "duplicate_path"),
    }  # fmt: skip


def test_the_source_and_the_folders_of_splits_may_be_links(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "data")
    (root / "held").symlink_to("val")
    (root / "learnt").symlink_to(root / "train")
    (tmp_path / "source").symlink_to(root)
    splits = {"train": "learnt", "validation": "held", "test": "test"}
    images, bad = read(source(tmp_path / "source", splits=splits))
    assert (len(images), bad) == (4, {})


def test_links_out_of_the_source_are_quarantined(tmp_path: Path) -> None:
    root, outside = lay_out(tmp_path / "data"), lay_out(tmp_path / "secret")
    (root / "train/ant/one.png").symlink_to(outside / "train/ant/1.JPG")
    (root / "train/bee").symlink_to("../../secret/train/ant")
    images, bad = read(source(root))
    assert (len(images), bad) == (
        4, dict.fromkeys(("train/ant/one.png", "train/bee"), ("train", "unsafe_path"))
    )  # fmt: skip
    (root / "held").symlink_to("../secret/val")
    with pytest.raises(DataError, match=r"(?s)unsafe_path \(such as held\).*in place of the links"):
        read(source(root, splits={**FOLDERS, "validation": "held"}))


def test_a_class_table_outside_of_the_source_is_not_read(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "data")
    (tmp_path / "secret.tsv").write_text("ant\tpassword\n")
    (root / "classes.tsv").symlink_to("../secret.tsv")
    with pytest.raises(DataError, match="leads out of the source"):
        read(source(root, class_names="classes.tsv"))


def test_a_folder_and_its_tar_give_the_same(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "data")
    (root / "train/.git").mkdir()
    for name in ("train/.git/a.png", "train/.git/b.png", "test/ant/.DS_Store", "train/ant/notes.txt"):
        (root / name).write_bytes(b"x")
    (root / "train/ant/soft.png").symlink_to("1.JPG")
    (root / "train/bee").symlink_to("ant")
    os.link(root / "val/ant/3.png", root / "val/ant/hard.png")
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        for name in FOLDERS.values():
            archive.add(root / name, name)
    folder, tar = read(source(root)), read(source(tmp_path / "data.tar"))
    assert folder[0] == sorted(ALL)
    assert sorted(tar[0])[:3] == folder[0][:3]
    assert Counter(folder[1].values()) == Counter(tar[1].values())
    assert set(folder[1]) - {"val/ant/hard.png", "val/ant/3.png"} == set(tar[1]) - {
        "val/ant/hard.png",
        "val/ant/3.png",
    }
    assert folder[1]["train/.git"] == ("train", "hidden")
    assert folder[1]["train/bee"] == folder[1]["train/ant/soft.png"] == ("train", "duplicate_path")


def test_a_link_of_a_tar_that_leads_to_none_of_its_images_costs_one(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "data")
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        for name in FOLDERS.values():
            archive.add(root / name, name)
        targets = {"a": "gone.png", "b": "/etc/x.png", "c": "../../../d.png", "e": "../../val/ant/3.png"}
        for name, target in targets.items():
            link = tarfile.TarInfo(f"train/ant/{name}.png")
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name in (b"train/ant/\xff.png", b"train/ant/\\udcff.png"):
            member = tarfile.TarInfo(os.fsdecode(name))
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    _, bad = read(source(tmp_path / "data.tar"))
    assert [bad[f"train/ant/{name}.png"][1] for name in "abce"] == ["tar_link"] * 3 + ["duplicate_path"]
    assert bad["train/ant/\\udcff.png"][1] in ("duplicate_id", "undecodable")


@pytest.mark.parametrize(
    ("files", "told", "run"),
    [
        (["train/a/1.heic", "train/a/2.HEIC"], r"2 \.heic files \(such as train/a/1\.heic\)", "put images there"),
        (["train/1.png"], r"1 no_class \(such as train/1\.png\)", "dataset.source.classes: none"),
        (["train/photos.tar.gz"], r"1 \.gz files", r"path: …/train/photos\.tar\.gz"),
        (["train/.a/1.png"], r"1 hidden \(such as train/\.a\)", "put images there"),
    ],
)  # fmt: skip
def test_the_error_of_a_split_without_images_says_what_is_there(
    files: list[str], told: str, run: str, tmp_path: Path
) -> None:
    lay_out(tmp_path)
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        DataError, match=rf"no image in 'train'(.|\n)*elsewhere/ant(.|\n)*{told}(.|\n)*run: .*{run}"
    ):
        read(source(tmp_path))


def test_two_splits_of_one_folder_are_reported(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "same").symlink_to("test")
    with pytest.raises(
        DataError, match=r"splits\.validation: no image(.|\n)*1 duplicate_path \(such as same\)"
    ):
        read(source(tmp_path, splits={**FOLDERS, "validation": "same"}))


def test_classes_of_one_name_stay_apart_and_captions_have_the_name_alone(tmp_path: Path) -> None:
    for folder in ("n02012849", "n03126707", "n03710637"):
        (tmp_path / "train" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / folder / "1.png")
    table = "n02012849\tcrane\nn03126707\tcrane\nn03710637\tmaillot, tank suit\n"
    (tmp_path / "classes.tsv").write_text(table, encoding="utf-8")
    holdout = {"validation": 0.1, "test": 0.1, "seed": 0}
    config = source(tmp_path, splits={"train": "train"}, class_names="classes.tsv", holdout=holdout)
    planned = ADAPTERS["image_folder"]().plan(config, 1 << 16)
    assert planned.classes == ["crane (n02012849)", "crane (n03126707)", "maillot"]
    records = sorted((item for chunk in planned.chunks for item in chunk.items), key=lambda one: one.label)
    assert [(one.label, one.label_name, one.captions) for one in records] == [
        (0, "crane (n02012849)", ("a crane",)), (1, "crane (n03126707)", ("a crane",)), (2, "maillot", ("a maillot",)),
    ]  # fmt: skip
