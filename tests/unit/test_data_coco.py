"""COCO files as other tools write them: ids, numbers, polygons, nulls, duplicates, and what is counted of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vqpipe.data.adapters import ADAPTERS
from vqpipe.data.build import DatasetMetrics, DatasetParams, Source, build_dataset
from vqpipe.data.records import Bad, Record
from vqpipe.errors import DataError
from vqpipe.params.base import validate

SQUARE = [2, 1, 9, 1, 9, 4, 2, 4]
"""A polygon that covers columns 2 to 9 and rows 1 to 4."""
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 12, "name": "cat"}]


def write(root: Path, instances: Any, captions: Any = None, **changes: Any) -> Path:
    """Images 1, 2 and 3 of 20 x 10 pixels, with the instances given and a caption each."""
    images = changes.pop(
        "images", [{"id": n, "file_name": f"{n}.png", "height": 10, "width": 20} for n in (1, 2, 3)]
    )
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name in (1, 2, 3):
        Image.new("RGB", (20, 10), "red").save(root / f"images/{name}.png")
    said = (
        [{"id": n, "image_id": n, "caption": f"a dog {n}"} for n in (1, 2, 3)]
        if captions is None
        else captions
    )
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": said}))
    content = {"images": images, "categories": CATEGORIES, "annotations": instances, **changes}
    (root / "instances.json").write_text(json.dumps(content))
    return root


def section(root: Path) -> dict[str, Any]:
    split = {"images": "images", "captions": "captions.json", "instances": "instances.json"}
    return {"kind": "coco", "path": str(root), "splits": {"train": split},
            "holdout": {"validation": 0.1, "test": 0.1, "seed": 0}}  # fmt: skip


def read(root: Path) -> tuple[dict[str, Record], list[Bad], Any]:
    config: Any = validate(section(root), "dataset.source", Source)  # type: ignore[arg-type]
    plan = ADAPTERS["coco"]().plan(config, 1 << 20)
    entries = [entry for chunk in plan.chunks for entry in ADAPTERS["coco"]().load(config, chunk, 1 << 20)]
    records = {entry.image_id: entry for entry in entries if isinstance(entry, Record)}
    return records, [*(bad for _, bad in plan.bad), *(e for e in entries if isinstance(e, Bad))], plan


def one(root: Path, **annotation: Any) -> tuple[Record, list[Bad]]:
    """The record of image 1 with a single annotation, and what was noted."""
    given = {
        "id": 1,
        "image_id": 1,
        "category_id": 7,
        "bbox": [2, 1, 7, 3],
        "segmentation": [SQUARE],
        **annotation,
    }
    kept = {key: value for key, value in given.items() if value != "absent"}
    records, bad, _ = read(write(root, [kept]))
    return records["1"], bad


@pytest.mark.parametrize("form", [int, float, str, lambda n: f" {n} "])
@pytest.mark.parametrize("where", ["images", "annotations", "categories", "captions"])
def test_an_id_is_the_same_in_any_form(tmp_path: Path, form: Any, where: str) -> None:
    def of(name: str, value: int) -> Any:
        return form(value) if name == where else value

    images = [{"id": of("images", n), "file_name": f"{n}.png", "height": 10, "width": 20} for n in (1, 2, 3)]
    captions = [{"image_id": of("captions", n), "caption": f"dog {n}"} for n in (1, 2, 3)]
    instances = [
        {"image_id": of("annotations", n), "category_id": of("annotations", 7), "bbox": [0, 0, 5, 5]}
        for n in (1, 2, 3)
    ]
    categories = [{"id": of("categories", 7), "name": "dog"}, {"id": of("categories", 12), "name": "cat"}]
    records, bad, plan = read(write(tmp_path, instances, captions, images=images, categories=categories))
    assert bad == []
    assert list(plan.categories) == ["dog", "cat"]
    assert {name: (r.captions, [t.name for t in r.things]) for name, r in records.items()} == {
        str(n): ((f"dog {n}",), ["dog"]) for n in (1, 2, 3)
    }


RUNS = [25, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 101]


@pytest.mark.parametrize(
    "segmentation",
    [[SQUARE], SQUARE, [[], SQUARE], [[str(n) for n in SQUARE]], [[2, 1], [9, 1], [9, 4], [2, 4]],
     [[[2, 1], [9, 1], [9, 4], [2, 4]]], {"size": [10, 20], "counts": [21, *RUNS[1:-1], 105]},
     {"size": [10.0, "20"], "counts": [21.0, *RUNS[1:-1], 105]}],
)  # fmt: skip
def test_every_form_of_a_segmentation_is_the_same_mask(tmp_path: Path, segmentation: Any) -> None:
    record, bad = one(tmp_path, segmentation=segmentation)
    wanted = np.zeros((10, 20), np.uint8)
    wanted[1:5, 2:10] = 1
    assert bad == []
    assert record.segmentation is not None
    assert np.array_equal(record.segmentation, wanted)


@pytest.mark.parametrize("segmentation", [[], None, "absent", [[]], {}])
def test_a_segmentation_that_says_nothing_costs_nothing(tmp_path: Path, segmentation: Any) -> None:
    record, bad = one(tmp_path, segmentation=segmentation)
    assert bad == []
    assert [thing.box for thing in record.things] == [(2, 1, 7, 3)]
    assert record.segmentation is not None
    assert not record.segmentation.any()


@pytest.mark.parametrize("bbox", ["absent", None, []])
def test_a_missing_box_is_that_of_the_mask(tmp_path: Path, bbox: Any) -> None:
    record, bad = one(tmp_path, bbox=bbox)
    assert (bad, [thing.box for thing in record.things]) == ([], [(2, 1, 7, 3)])
    runs = {"size": [10, 20], "counts": [21, *RUNS[1:-1], 105]}
    record, bad = one(tmp_path, bbox=bbox, segmentation=runs)
    assert (bad, [thing.box for thing in record.things]) == ([], [(2, 1, 8, 4)])


@pytest.mark.parametrize(
    ("change", "reason", "boxes"),
    [({"bbox": ["2", "1", "7", "3.0"]}, None, [(2, 1, 7, 3)]),
     ({"bbox": [-4, 1, 7, 3]}, "clipped_box", [(0, 1, 3, 3)]),
     ({"bbox": [15, 5, 9, 9]}, "clipped_box", [(15, 5, 5, 5)]),
     ({"bbox": [15, 5, 5.5, 5]}, None, [(15, 5, 5, 5)]), ({"bbox": [2, 1, 0, 3]}, "bad_annotation", []),
     ({"bbox": [2, 1, -7, 3]}, "bad_annotation", []), ({"bbox": [2, 1, 7]}, "bad_annotation", []),
     ({"bbox": [2, 1, 7, None]}, "bad_annotation", []), ({"bbox": {"x": 2}}, "bad_annotation", []),
     ({"bbox": [90, 1, 7, 3]}, "bad_annotation", []), ({"bbox": None, "segmentation": None}, "bad_annotation", []),
     ({"bbox": "2 1 7 3"}, "bad_annotation", []),
     ({"category_id": None}, "bad_annotation", []), ({"category_id": [7]}, "bad_annotation", []),
     ({"category_id": 99}, "bad_annotation", []), ({"category_id": "absent"}, "bad_annotation", []),
     ({"segmentation": "x"}, "bad_annotation", [(2, 1, 7, 3)]),
     ({"segmentation": {"size": None, "counts": "x"}}, "bad_annotation", [(2, 1, 7, 3)]),
     ({"segmentation": {"size": [10, 20], "counts": None}}, "bad_annotation", [(2, 1, 7, 3)]),
     ({"segmentation": [[1, 2], SQUARE]}, "bad_annotation", [(2, 1, 7, 3)]),
     ({"iscrowd": True}, None, []), ({"iscrowd": "1"}, None, []), ({"iscrowd": "0"}, None, [(2, 1, 7, 3)]),
     ({"iscrowd": False}, None, [(2, 1, 7, 3)]), ({"iscrowd": None}, None, [(2, 1, 7, 3)])],
)  # fmt: skip
def test_an_annotation_is_read_or_counted(
    tmp_path: Path, change: Any, reason: str | None, boxes: Any
) -> None:
    record, bad = one(tmp_path, **change)
    assert [entry.reason for entry in bad] == ([reason] if reason else [])
    assert [entry.annotations for entry in bad] == ([int(reason == "bad_annotation")] if reason else [])
    assert [thing.box for thing in record.things] == boxes


@pytest.mark.parametrize(
    "shape", [(20.0, 40.0), ("20", "40"), ("20.0", 40)], ids=["floats", "strings", "mixed"]
)
def test_a_size_is_a_number_in_any_form(tmp_path: Path, shape: Any) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "height": shape[0], "width": shape[1]} for n in (1, 2, 3)]
    root = write(tmp_path, [{"image_id": 1, "category_id": 7, "bbox": [4, 2, 8, 6]}], images=images)
    records, bad, _ = read(root)
    assert (bad, [thing.box for thing in records["1"].things]) == ([], [(2, 1, 4, 3)])
    # The captions json may be the one that does not say it.
    bare = [{"id": n, "file_name": f"{n}.png", "height": None} for n in (1, 2, 3)]
    said = [{"image_id": n, "caption": "a dog"} for n in (1, 2, 3)]
    (root / "captions.json").write_text(json.dumps({"images": bare, "annotations": said}))
    records, bad, _ = read(root)
    assert (bad, [thing.box for thing in records["1"].things]) == ([], [(2, 1, 4, 3)])


def test_what_is_listed_twice_counts_once_and_an_id_used_for_all_costs_nothing(tmp_path: Path) -> None:
    box = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]}
    again = {"id": 5, "image_id": 2, "caption": "a cat"}
    captions = [again, again, *({"id": 0, "image_id": n, "caption": f"dog {n}"} for n in (1, 2, 3))]
    records, bad, _ = read(write(tmp_path, [{"id": 1, **box}, {"id": 1, **box}, {"id": 2, **box}], captions))
    assert [(entry.item, entry.reason, entry.annotations) for entry in bad] == [
        ("2", "duplicate_annotation", 0), ("1", "duplicate_annotation", 0),
    ]  # fmt: skip
    assert len(records["1"].things) == 2
    assert [records[name].captions for name in "123"] == [("dog 1",), ("a cat", "dog 2"), ("dog 3",)]


@pytest.mark.parametrize("categories", [None, []])
def test_annotations_without_categories_are_counted(tmp_path: Path, categories: Any) -> None:
    records, bad, plan = read(
        write(tmp_path, [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]}], categories=categories)
    )
    assert [(entry.reason, entry.detail) for entry in bad] == [("bad_annotation", "no categories are listed")]
    assert len(records) == 3
    assert list(plan.categories) == []


def test_odd_categories(tmp_path: Path) -> None:
    categories = [
        {"id": 3.0, "name": None},
        {"id": "10", "name": "dog"},
        {"id": 2, "name": "dog"},
        {"name": "x"},
        5,
    ]
    _, bad, plan = read(write(tmp_path, [], categories=categories))
    assert list(plan.categories) == ["dog", "3", "dog"]
    assert [entry.reason for entry in bad] == ["bad_annotation"] * 2
    with pytest.raises(DataError, match=r"category 1 has two names\n  found:    a, b"):
        read(write(tmp_path, [], categories=[{"id": 1, "name": "a"}, {"id": 1.0, "name": "b"}]))


def test_null_arrays_and_elements(tmp_path: Path) -> None:
    records, bad, plan = read(write(tmp_path, None, info=None))
    assert (len(records), bad, plan.num_annotations) == (3, [], 3)
    _, bad, plan = read(write(tmp_path, [None, 3, {"image_id": None}, {"image_id": True}, {"image_id": [1]}]))
    assert [(entry.reason, entry.annotations) for entry in bad] == [("bad_annotation", 1)] * 5
    assert plan.num_annotations == 8


def build(root: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> DatasetMetrics:
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    monkeypatch.setenv("VQPIPE_SCRATCH", str(root / "scratch"))
    source = section(root)
    split = source["splits"]["train"]
    source = {**source, "splits": {"train": split, "validation": split, "test": split},
              "holdout": {"validation": 0.0, "test": 0.0, "seed": 0}}  # fmt: skip
    for name in ("validation", "test"):
        write(root / name, [])
        source["splits"][name] = {key: f"{name}/{value}" for key, value in split.items()}
        for file in ("captions.json", "instances.json"):
            path = root / name / file
            path.write_text(
                path.read_text()
                .replace('"id": ', f'"id": {len(name)}0')
                .replace('image_id": ', f'image_id": {len(name)}0')
            )
    params = {"source": source, "resize": {"short_side": None, "filter": "box", "too_small": "upscale"},
              "max_bad_fraction": 0.1, "max_pixels": 1 << 20, "shard_bytes": 1 << 20, **changes}  # fmt: skip
    return build_dataset(validate(params, "dataset", DatasetParams), root / "out")


def test_many_lost_annotations_stop_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = [{"image_id": "000001.png", "category_id": 7, "bbox": [0, 0, 5, 5]} for _ in range(5)]
    kept = [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]}]
    write(tmp_path, lost + kept)
    with pytest.raises(DataError, match=r"33\.3% of the 15 annotations(.|\n)*1 orphan_annotation") as told:
        build(tmp_path, monkeypatch)
    assert "at most dataset.max_bad_fraction = 10.0%" in str(told.value)
    assert "dataset.max_bad_annotation_fraction" in str(told.value)
    assert not (tmp_path / "out").exists()
    metrics = build(tmp_path, monkeypatch, max_bad_annotation_fraction=0.5)
    assert (metrics.num_annotations, metrics.bad_annotation_fraction) == (15, 0.333333)
    assert metrics.bad_fraction == 0.0
    assert "33.3% of 15 annotations were left out (5 orphan_annotation)" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"at most dataset\.max_bad_annotation_fraction = 20\.0%"):
        build(tmp_path, monkeypatch, max_bad_annotation_fraction=0.2)


def test_an_image_that_a_link_puts_outside_of_the_source_is_quarantined(tmp_path: Path) -> None:
    root = write(tmp_path / "source", [])
    name = next(p for p in root.rglob("*") if p.suffix in (".png", ".jpg"))
    name.rename(tmp_path / "secret")
    name.symlink_to(tmp_path / "secret")
    _, bad, _ = read(root)
    assert "unsafe_path" in {entry.reason for entry in bad}


def test_a_list_of_captions_outside_of_the_source_is_not_read(tmp_path: Path) -> None:
    root = write(tmp_path / "source", [])
    name = next(p for p in root.rglob("*.json"))
    name.rename(tmp_path / "secret.json")
    name.symlink_to(tmp_path / "secret.json")
    with pytest.raises(DataError, match="leads out of the source"):
        read(root)


def listing(root: Path, name: str, ids: Mapping[int, int]) -> None:
    """A json of captions: the file of each id."""
    images = [{"id": own, "file_name": f"{file}.png"} for own, file in ids.items()]
    captions = [{"image_id": own, "caption": "a dog"} for own in ids]
    (root / name).write_text(json.dumps({"images": images, "annotations": captions}))


def planned(root: Path, holdout: float, **splits: str) -> Any:
    fields = section(root) | {
        "splits": {split: {"images": "images", "captions": name} for split, name in splits.items()},
        "holdout": {"validation": holdout, "test": 0.0 if "test" in splits else holdout, "seed": 0},
    }
    return ADAPTERS["coco"]().plan(validate(fields, "dataset.source", Source), 1 << 20)  # type: ignore[arg-type]


def test_no_image_file_is_in_two_splits_under_two_ids(tmp_path: Path) -> None:
    root = write(tmp_path, [])
    listing(root, "other.json", {11: 1, 12: 2, 13: 3})
    plan = planned(root, 0.1, train="captions.json", test="other.json")
    assert [(split, bad.item, bad.reason, bad.annotations) for split, bad in plan.bad] == [
        ("test", str(number), "duplicate_path", 1) for number in (11, 12, 13)
    ]
    assert "test" not in {chunk.split for chunk in plan.chunks}


def test_an_id_that_two_splits_use_for_two_files_names_the_file_that_is_left_out(tmp_path: Path) -> None:
    root = write(tmp_path, [])
    listing(root, "first.json", {1: 1, 2: 2})
    listing(root, "again.json", {1: 3})
    plan = planned(root, 0.1, train="first.json", test="again.json")
    assert [(bad.item, bad.reason) for _, bad in plan.bad] == [("1", "duplicate_id")]
    assert "3.png is left out" in plan.bad[0][1].detail


def test_all_ids_of_one_file_are_in_one_split(tmp_path: Path) -> None:
    root = write(tmp_path, [])
    listing(root, "many.json", {number: 1 + number % 3 for number in range(60)})
    plan = planned(root, 0.3, train="many.json")
    assert plan.bad == []
    chunks, splits = list(plan.chunks), dict[str, set[str]]()
    for chunk in chunks:
        for item in chunk.items:
            splits.setdefault(item.file_name, set()).add(chunk.split)
    assert sum(len(chunk.items) for chunk in chunks) == 60
    assert {len(own) for own in splits.values()} == {1}
