"""Sources on disk, as they should be and as they are: COCO layouts, class folders, tars."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vqpipe.data.adapters import ADAPTERS
from vqpipe.data.adapters.base import Holdout, Plan, chunked, split_of
from vqpipe.data.adapters.image_folder import captions_of_class
from vqpipe.data.build import Source
from vqpipe.data.records import Bad, Record
from vqpipe.errors import DataError, ParamsError
from vqpipe.params.base import validate

MAX_PIXELS = 1 << 16
NO_HOLDOUT = {"validation": 0.0, "test": 0.0, "seed": 0}
FOLDERS = {"train": "train", "validation": "val", "test": "test"}


def source(**fields: Any) -> Any:
    return validate(fields, "dataset.source", Source)  # type: ignore[arg-type]


def png(colour: str = "red", width: int = 20, height: int = 10, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, kind)
    return buffer.getvalue()


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def read(config: Any) -> tuple[Plan, list[tuple[str, Record]], list[tuple[str, Bad]]]:
    adapter = ADAPTERS[config.kind]()
    plan = adapter.plan(config, MAX_PIXELS)
    records: list[tuple[str, Record]] = []
    bad = list(plan.bad)
    for chunk in plan.chunks:
        for entry in adapter.load(config, chunk, MAX_PIXELS):
            (records if isinstance(entry, Record) else bad).append((chunk.split, entry))  # type: ignore[arg-type]
    return plan, records, bad


def reasons(bad: list[tuple[str, Bad]]) -> set[tuple[str, str]]:
    return {(entry.item, entry.reason) for _, entry in bad}


# ---------------------------------------------------------------- holdout and chunks


def test_a_held_out_split_depends_on_the_id_alone() -> None:
    holdout = Holdout(validation=0.1, test=0.2, seed=3)
    ids = [f"image-{number}" for number in range(4000)]
    splits = [split_of(image_id, holdout) for image_id in ids]
    assert abs(splits.count("validation") / 4000 - 0.1) < 0.02
    assert abs(splits.count("test") / 4000 - 0.2) < 0.02
    assert [split_of(image_id, holdout) for image_id in reversed(ids)] == splits[::-1]
    assert splits != [split_of(image_id, Holdout(validation=0.1, test=0.2, seed=4)) for image_id in ids]


def test_chunks_keep_order_and_bounds() -> None:
    items = [("train" if number % 3 else "test", 1, number) for number in range(400)]
    chunks = list(chunked(items))  # type: ignore[arg-type]
    assert max(len(chunk.items) for chunk in chunks) == 64
    for split in ("train", "test"):
        got = [item for chunk in chunks if chunk.split == split for item in chunk.items]
        assert got == [number for name, _, number in items if name == split]
    heavy = list(chunked([("train", 40 << 20, number) for number in range(3)]))
    assert [chunk.items for chunk in heavy] == [(0,), (1,), (2,)]


@pytest.mark.parametrize(
    ("change", "told"),
    [({"holdout": {"validation": 0.6, "test": 0.4, "seed": 0}}, "must be below 1"),
     ({"holdout": {"validation": 0.1, "test": 0.0, "seed": 0}}, "validation comes from two places"),
     ({"splits": {"train": "train", "test": "test"}}, "validation comes from nowhere"),
     ({"splits": {"test": "test"}}, "splits.train is missing"),
     ({"templates": ["a thing"]}, "must have exactly one"),
     ({"classes": "none"}, "no {} when classes is none"),
     ({"templates": [" "]}, "empty caption"), ({"kind": "imagefolder"}, "image_folder")],
)  # fmt: skip
def test_params_that_contradict_themselves(change: dict[str, Any], told: str) -> None:
    plain = {"kind": "image_folder", "path": "x", "splits": FOLDERS, "holdout": NO_HOLDOUT,
        "classes": "folders",
             "templates": ["a {}"]}  # fmt: skip
    with pytest.raises(ParamsError, match=told):
        source(**{**plain, **change})


# ---------------------------------------------------------------- image folders


def folder(path: Path, **changes: Any) -> Any:
    fields = {"kind": "image_folder", "path": str(path), "splits": FOLDERS, "holdout": NO_HOLDOUT,
              "classes": "folders", "templates": ["a photo of {a} {}", "the {}"], **changes}  # fmt: skip
    return source(**fields)


SMALL = {
    "train/red_owl/b.png": png("red"), "train/red_owl/deep/a.PNG": png("red"),
    "train/ant/1.jpg": png("blue", kind="JPEG"),
    "val/ant/2.png": png("blue"), "test/red_owl/3.png": png("red"),
}  # fmt: skip


def test_class_folders(tmp_path: Path) -> None:
    plan, records, bad = read(folder(put(tmp_path, SMALL)))
    assert list(plan.classes) == ["ant", "red owl"]
    assert bad == []
    assert [(split, r.image_id, r.label, r.label_name) for split, r in records] == [
        ("test", "test/red_owl/3.png", 1, "red owl"),
        ("train", "train/ant/1.jpg", 0, "ant"),
        ("train", "train/red_owl/b.png", 1, "red owl"),
        ("train", "train/red_owl/deep/a.PNG", 1, "red owl"),
        ("validation", "val/ant/2.png", 0, "ant"),
    ]
    assert records[1][1].captions == ("a photo of an ant", "the ant")
    assert captions_of_class(None, ["a face"]) == ("a face",)
    assert records[0][1].captions == ("a photo of a red owl", "the red owl")
    assert records[0][1].image.shape == (10, 20, 3)


def test_images_without_classes_at_any_depth(tmp_path: Path) -> None:
    put(tmp_path, {f"{number // 10:02d}/{number}.png": png() for number in range(60)})
    config = folder(
        tmp_path, splits={"train": "."}, classes="none", templates=["a face"],
        holdout={"validation": 0.2, "test": 0.2, "seed": 0},
    )  # fmt: skip
    plan, records, bad = read(config)
    assert (list(plan.classes), bad, len(records)) == ([], [], 60)
    assert {split for split, _ in records} == {"train", "validation", "test"}
    assert all(record.label is None and record.captions == ("a face",) for _, record in records)


def test_bad_files_of_a_folder(tmp_path: Path) -> None:
    put(tmp_path, {
        **SMALL, "train/ant/empty.png": b"", "train/ant/cut.png": png(width=200, height=200)[:-60],
        "train/ant/text.png": b"hello", "train/ant/notes.txt": b"x", "train/beside.png": png(),
        "train/ant/huge.png": png(width=300, height=300), "train/ant/.hidden.png": b"x",
        "train/.git/x.png": b"x",
        "train/ant/fat.bmp": b"BM" + bytes(2 << 20),
    })  # fmt: skip
    (tmp_path / "train/ant/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "train/ant/loop").symlink_to(tmp_path / "train")
    _, records, bad = read(folder(tmp_path))
    assert len(records) == 5
    assert reasons(bad) == {
        ("train/ant/empty.png", "empty_file"), ("train/ant/cut.png", "truncated"),
        ("train/ant/text.png", "undecodable"), ("train/ant/notes.txt", "other_file"),
        ("train/beside.png", "no_class"), ("train/ant/huge.png", "too_many_pixels"),
        ("train/ant/fat.bmp", "too_many_bytes"), ("train/ant/gone.png", "missing_file"),
        ("train/ant/.hidden.png", "hidden"), ("train/.git", "hidden"), ("train/ant/loop", "duplicate_path"),
    }  # fmt: skip


def test_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    put(tmp_path, SMALL)
    try:
        (tmp_path / os.fsdecode(b"train/ant/caf\xe9.png")).write_bytes(png())
    except OSError:
        pytest.skip("this file system takes no such name")
    _, records, _ = read(folder(tmp_path))
    assert "train/ant/caf\\udce9.png" in [record.image_id for _, record in records]


def test_class_table(tmp_path: Path) -> None:
    put(tmp_path, {**SMALL, "classes.tsv": b"ant\tpharaoh ant, Monomorium\nred_owl\tscops owl\n"})
    plan, records, _ = read(folder(tmp_path, class_names="classes.tsv"))
    assert list(plan.classes) == ["pharaoh ant", "scops owl"]
    assert records[1][1].captions[0] == "a photo of a pharaoh ant"
    (tmp_path / "classes.tsv").write_text("ant\tant\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"names no class for 1 of 2 class folders\n  found:    red_owl"):
        read(folder(tmp_path, class_names="classes.tsv"))
    (tmp_path / "classes.tsv").write_text("ant ant\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1: not a class"):
        read(folder(tmp_path, class_names="classes.tsv"))
    with pytest.raises(DataError, match=r"no names\.tsv in"):
        read(folder(tmp_path, class_names="names.tsv"))


def test_wrong_layouts_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist(.|\n)*expected: class folders"):
        read(folder(tmp_path / "nowhere"))
    put(tmp_path, {"photos/ant/1.png": png(), "train/ant/1.png": png()})
    with pytest.raises(DataError, match=r"splits\.validation: no image in 'val'(.|\n)*photos/ant, train/ant"):
        read(folder(tmp_path))


# ---------------------------------------------------------------- tars


def tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tgz", "w:gz"), ("a.tar.xz", "w:xz")])
def test_a_tar_is_read_like_its_folder(tmp_path: Path, name: str, mode: str) -> None:
    files = {
        f"./top/{key}": data for key, data in {**SMALL, "classes.tsv": b"ant\tant\nred_owl\towl\n"}.items()
    }
    path = tar(tmp_path / name, files, mode)
    before = sorted(tmp_path.rglob("*"))
    splits = {split: f"top/{where}" for split, where in FOLDERS.items()}
    plan, records, bad = read(folder(path, splits=splits, class_names="top/classes.tsv"))
    assert (list(plan.classes), bad) == (["ant", "owl"], [])
    assert {record.image_id for _, record in records} == {f"top/{key}" for key in SMALL}
    assert sorted(tmp_path.rglob("*")) == before


def test_members_that_lead_out_of_a_tar_are_quarantined(tmp_path: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(png())
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in {**SMALL, "train/../../x.png": png(), "/abs/x.png": png(), "C:\\x.png": png(),
                           "train\\..\\..\\y.png": png(), "train/ant/1.jpg ": b""}.items():  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind in (("train/ant/link.png", tarfile.SYMTYPE), ("train/ant/hard.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(outside)
            archive.addfile(info)
        pipe = tarfile.TarInfo("train/ant/pipe.png")
        pipe.type = tarfile.FIFOTYPE
        archive.addfile(pipe)
        again = tarfile.TarInfo("train/ant/1.jpg")
        again.size = 3
        archive.addfile(again, io.BytesIO(b"abc"))
        fat = tarfile.TarInfo("train/ant/fat.png")
        fat.size = 3 << 20
        archive.addfile(fat, io.BytesIO(bytes(fat.size)))
    _, records, bad = read(folder(path))
    assert {record.image_id for _, record in records} == set(SMALL)
    assert reasons(bad) >= {
        ("train/../../x.png", "unsafe_path"), ("/abs/x.png", "unsafe_path"), ("C:\\x.png", "unsafe_path"),
        ("train\\..\\..\\y.png", "unsafe_path"), ("train/ant/link.png", "tar_link"),
        ("train/ant/hard.png", "tar_link"), ("train/ant/pipe.png", "tar_special"),
        ("train/ant/1.jpg", "duplicate_id"), ("train/ant/fat.png", "too_many_bytes"),
    }  # fmt: skip


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_cut_tar_is_reported(tmp_path: Path, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    path = tar(tmp_path / "a.tgz", {name: buffer.getvalue() for name in SMALL}, "w:gz")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(DataError, match=r"a\.tgz is not a sound tar(.|\n)*last member read"):
        read(folder(path))


def test_a_file_that_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"hello" * 1000)
    with pytest.raises(DataError, match="is not a sound tar"):
        read(folder(tmp_path / "a.tar"))


# ---------------------------------------------------------------- COCO


def coco(root: Path, **changes: Any) -> Any:
    split = {"images": "images", "captions": "captions.json", "instances": "instances.json"}
    fields = {"kind": "coco", "path": str(root), "splits": {"train": split},
              "holdout": {"validation": 0.2, "test": 0.2, "seed": 0}, **changes}  # fmt: skip
    return source(**fields)


IMAGES = [{"id": number, "file_name": f"{number}.png", "height": 10, "width": 20} for number in (12, 3, 100)]
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}]


def lay_out(
    root: Path, captions: Any, instances: Any, images: Any = IMAGES, files: Any = (3, 12, 100)
) -> Path:
    put(root, {f"images/{number}.png": png() for number in files})
    (root / "captions.json").write_text(
        json.dumps({"images": images, "annotations": captions}), encoding="utf-8"
    )
    content = {"annotations": instances, "images": images, "categories": CATEGORIES}
    (root / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def said(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"id": at, "image_id": image, "caption": caption} for at, (image, caption) in enumerate(pairs)]


EACH = said((12, "b"), (3, "a"), (100, "c"), (3, "a too"))


def test_coco_records(tmp_path: Path) -> None:
    square = {"segmentation": [[0, 0, 9, 0, 9, 4, 0, 4]], "bbox": [0, 0, 10, 5]}
    crowd = {"size": [10, 20], "counts": [0, 200]}
    instances = [
        {"image_id": 3, "category_id": 7, "iscrowd": 0, **square},
        {"image_id": 3, "category_id": 2, "iscrowd": 1, "segmentation": crowd, "bbox": [0, 0, 20, 10]},
        {"image_id": 3, "category_id": 2, "iscrowd": 0, "segmentation": [], "bbox": [15, 5, 10, 100]},
        {"image_id": 12, "category_id": 99, "bbox": [0, 0, 1, 1]},
        {"image_id": 12, "category_id": 7, "bbox": [30, 0, 4, 4], "segmentation": [[1, 2]]},
    ]
    plan, records, bad = read(coco(lay_out(tmp_path, EACH, instances)))
    by_id = {record.image_id: record for _, record in records}
    order = [r.image_id for split in ("train", "validation", "test") for s, r in records if s == split]
    assert sorted(order, key=int) == ["3", "12", "100"]
    assert (list(plan.categories), list(plan.classes)) == (["cat", "dog"], [])
    first = by_id["3"]
    assert first.captions == ("a", "a too")
    assert [(thing.name, thing.box) for thing in first.things] == [
        ("dog", (0, 0, 10, 5)),
        ("cat", (15, 5, 5, 5)),
    ]
    assert first.segmentation is not None
    assert (first.segmentation[:5, :10] == 2).all()
    assert (first.segmentation[5:] == 1).all()
    assert by_id["100"].segmentation is not None
    assert not by_id["100"].segmentation.any()
    assert reasons(bad) == {("12", "bad_annotation"), ("3", "clipped_box")}
    assert (len(bad), plan.num_annotations, sum(entry.annotations for _, entry in bad)) == (4, 9, 2)


def test_coco_boxes_follow_a_resized_image(tmp_path: Path) -> None:
    root = lay_out(tmp_path, EACH, [{"image_id": 3, "category_id": 2, "bbox": [2, 4, 6, 2]}])
    (root / "images/3.png").write_bytes(png(width=40, height=20))
    (root / "images/12.png").write_bytes(png(width=10, height=20))
    _, records, bad = read(coco(root))
    boxes = {record.image_id: [thing.box for thing in record.things] for _, record in records}
    assert boxes == {"3": [(4, 8, 12, 4)], "100": []}
    assert reasons(bad) == {("12", "size_mismatch")}


def test_coco_items_that_do_not_fit_together(tmp_path: Path) -> None:
    images = [*IMAGES, {"id": 3, "file_name": "x.png"}, {"id": 5, "file_name": "../../out.png"},
        {"file_name": "y"},
              {"id": 6, "file_name": "/etc/x.png"}, {"id": 8, "file_name": "8.png"}]  # fmt: skip
    captions = said((3, "a"), (3, " "), (100, ""), (77, "who?"), (77, "where?"), (8, "gone"),
        (12, "caf\udce9"),
                    (12, None), (5, "out"), (6, "out"))  # fmt: skip
    _, records, bad = read(coco(lay_out(tmp_path, captions, [], images)))
    assert [(record.image_id, record.captions) for _, record in records] == [("3", ("a",))]
    assert reasons(bad) == {
        ("3", "duplicate_id"), ("3", "empty_caption"), ("100", "empty_caption"), ("100", "no_caption"),
        ("77", "orphan_annotation"), ("8", "missing_file"), ("12", "caption_not_utf8"),
        ("12", "caption_not_text"),
        ("12", "no_caption"), ("5", "unsafe_path"), ("6", "unsafe_path"),
        ("images of captions.json", "bad_annotation"), ("images of instances.json", "bad_annotation"),
    }  # fmt: skip


def test_coco_captions_alone_and_an_id_in_two_splits(tmp_path: Path) -> None:
    lay_out(tmp_path, EACH, [])
    split = {"images": "images", "captions": "captions.json"}
    holdout = {"validation": 0.5, "test": 0.0, "seed": 0}
    plan, records, bad = read(coco(tmp_path, splits={"train": split, "test": split}, holdout=holdout))
    assert list(plan.categories) == []
    assert all(record.segmentation is None and record.things == () for _, record in records)
    assert {entry.reason for _, entry in bad} == {"duplicate_id"}
    assert len(bad) == len(records) == 3


def test_coco_layouts_are_reported(tmp_path: Path) -> None:
    lay_out(tmp_path, EACH, [])
    split = {"images": "images", "captions": "captons.json"}
    with pytest.raises(
        DataError, match=r"captons\.json does not exist\n(.|\n)*captions\.json, images, instances"
    ):
        read(coco(tmp_path, splits={"train": split}))
    with pytest.raises(DataError, match="must be relative"):
        read(coco(tmp_path, splits={"train": {**split, "images": "../images"}}))
    (tmp_path / "captions.json").write_text('{"images": []}', encoding="utf-8")
    with pytest.raises(DataError, match="lists no images"):
        read(coco(tmp_path))
    (tmp_path / "captions.json").write_text("hello", encoding="utf-8")
    with pytest.raises(DataError, match="is not a JSON object"):
        read(coco(tmp_path))
    with pytest.raises(DataError, match=r"nowhere does not exist(.|\n)*expected: COCO layout"):
        read(coco(tmp_path / "nowhere"))
