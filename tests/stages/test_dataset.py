"""The dataset stage: its artifact, metrics and messages, and the same bytes for any number of workers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from stages.dataset import app
from tests.small_sources import CATEGORIES, CLASSES, sources, write_class_tar, write_coco
from vqpipe.artifacts.publish import read_manifest, tree_digest
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES, QUARANTINE, TRUTH
from vqpipe.artifacts.tables import read_table
from vqpipe.data import records
from vqpipe.data.images import decode_png
from vqpipe.data.loader import ImageSplit

SCENES = {
    "kind": "scenes", "path": "artifacts/code/dataset.txt", "resolution": 32, "supersample": 2, "num_train": 70,
    "num_validation": 20, "num_test": 30, "seed": 1, "max_objects": 4, "max_captions": 5,
}  # fmt: skip
FOLDERS = {
    "kind": "image_folder", "path": "raw", "splits": {"train": "train", "test": "test"},
    "holdout": {"validation": 0.3, "test": 0.0, "seed": 0}, "classes": "folders", "templates": ["a {}"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("VQPIPE_WORKERS", "1")


def run(source: dict[str, Any], out: str = "out", **changes: Any) -> Result:
    section = {
        "source": source, "resize": {"short_side": None, "filter": "bicubic", "too_small": "upscale"},
        "max_bad_fraction": 0.0, "max_pixels": 1 << 20, "shard_bytes": 1 << 20, **changes,
    }  # fmt: skip
    YAML().dump({"dataset": section}, Path("params.yaml"))
    return CliRunner().invoke(app, ["--out", out, "--metrics", f"{out}.json", "--params", "params.yaml"])


def ok(result: Result) -> None:
    assert result.exit_code == 0, result.output


def png(seed: int, width: int = 24, height: int = 16) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number in range(200):
        path = (
            tmp_path / "raw" / ("test" if number % 5 == 0 else "train") / "ab"[number % 2] / f"{number}.png"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return tmp_path / "raw"


def test_scenes_become_a_dataset() -> None:
    ok(run(SCENES))
    manifest = read_manifest(Path("out"), DATASET)
    counts = {"train": 70, "validation": 20, "test": 30}
    facts = manifest.facts
    assert (facts["kind"], facts["resolution"]) == ("scenes", 32)
    assert {split: facts["splits"][split]["images"] for split in counts} == counts
    metrics = json.loads(Path("out.json").read_text())
    assert metrics["images"] == counts
    assert (metrics["bad_fraction"], metrics["quarantined"]) == (0.0, {})
    assert read_table(Path("out/quarantine.parquet"), QUARANTINE).num_rows == 0
    assert read_table(Path("out/truth.parquet"), TRUTH).num_rows > 0
    rows = read_table(Path("out/test-00000.parquet"), IMAGES).to_pylist()
    assert metrics["captions"]["test"] == sum(len(row["captions"]) for row in rows)
    for row in rows:
        assert decode_png(row["image"]).shape == (32, 32, 3)
        assert facts["classes"][row["label"]] == row["label_name"]
        assert decode_png(row["segmentation"]).max() <= len(facts["categories"])
    assert Path("out.lineage.json").is_file()
    split = ImageSplit.open(Path("out"), "test", 32)
    assert split.captions == [row["captions"] for row in rows]


def test_the_same_bytes_for_any_number_of_workers(monkeypatch: pytest.MonkeyPatch, raw: Path) -> None:
    for source, counts, changes in (
        (SCENES, (1, 7), {}),
        (FOLDERS, (1, 2, 7), {"resize": {"short_side": 11, "filter": "lanczos", "too_small": "upscale"}}),
    ):
        digests = set()
        for workers in counts:
            monkeypatch.setenv("VQPIPE_WORKERS", str(workers))
            ok(run(source, f"{source['kind']}-{workers}", **changes))
            digests.add(tree_digest(Path(f"{source['kind']}-{workers}")))
        assert len(digests) == 1


def test_shards_hold_every_image_once_and_in_order(raw: Path) -> None:
    resize = {"short_side": 160, "filter": "bicubic", "too_small": "upscale"}
    ok(run(FOLDERS, resize=resize))
    facts = read_manifest(Path("out"), DATASET).facts
    assert len(facts["splits"]["train"]["shards"]) > 1
    found = {
        split: [row for shard in entry["shards"] for row in pq.read_table(Path("out") / shard).to_pylist()]
        for split, entry in facts["splits"].items()
    }
    ids = {split: [row["image_id"] for row in rows] for split, rows in found.items()}
    assert all(split_ids == sorted(split_ids) for split_ids in ids.values())
    assert sum(map(len, ids.values())) == len(set().union(*ids.values())) == 200
    assert len(ids["test"]) == 40
    assert 20 < len(ids["validation"]) < 80
    assert facts["resolution"] == 160
    assert found["test"][0]["width"] == 240
    assert found["test"][0]["captions"] == ["a a"]


def test_resizing_moves_boxes_with_the_image() -> None:
    ok(run(SCENES, "plain"))
    ok(run(SCENES, "half", resize={"short_side": 16, "filter": "box", "too_small": "quarantine"}))
    plain, half = (
        read_table(Path(f"{name}/test-00000.parquet"), IMAGES).to_pylist() for name in ("plain", "half")
    )
    for a, b in zip(plain, half, strict=True):
        image = decode_png(a["image"]).astype(float)
        boxed = image.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
        assert np.abs(decode_png(b["image"]) - boxed).max() <= 1
        assert decode_png(b["segmentation"]).shape == (16, 16)
        for thing, scaled in zip(a["things"], b["things"], strict=True):
            assert scaled["box"] == pytest.approx([side / 2 for side in thing["box"]])


def test_bad_images_are_quarantined_and_counted(raw: Path) -> None:
    (raw / "train/a/empty.png").write_bytes(b"")
    (raw / "train/a/notes.txt").write_bytes(b"")
    (raw / "test/b/small.png").write_bytes(png(0, 9, 9))
    resize = {"short_side": 16, "filter": "bicubic", "too_small": "quarantine"}
    done = run(FOLDERS, max_bad_fraction=0.01, resize=resize)
    ok(done)
    assert "2 of 202 images were left out (1 empty_file, 1 too_small); see quarantine.parquet" in done.stderr
    rows = read_table(Path("out/quarantine.parquet"), QUARANTINE).to_pylist()
    assert {(row["split"] == "test", row["item"], row["reason"]) for row in rows} == {
        (False, "train/a/empty.png", "empty_file"),
        (False, "train/a/notes.txt", "other_file"),
        (True, "test/b/small.png", "too_small"),
    }
    metrics = json.loads(Path("out.json").read_text())
    assert metrics["quarantined"] == {"empty_file": 1, "other_file": 1, "too_small": 1}
    assert metrics["bad_fraction"] == pytest.approx(2 / 202, abs=1e-6)


def test_the_quarantine_table_is_bounded_and_the_counts_are_not(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_ROWS", 5)
    for number in range(20):
        (raw / f"train/a/{number}.txt").write_bytes(b"")
    (raw / "train/a/empty.png").write_bytes(b"")
    ok(run(FOLDERS, max_bad_fraction=0.01))
    metrics = json.loads(Path("out.json").read_text())
    assert metrics["quarantined"] == {"empty_file": 1, "other_file": 20}
    assert metrics["quarantine_rows_left_out"] == 16
    rows = read_table(Path("out/quarantine.parquet"), QUARANTINE)
    assert sorted(rows["reason"].to_pylist()) == ["empty_file", *["other_file"] * 4]


def test_too_many_bad_images_stop_the_stage_and_publish_nothing(raw: Path) -> None:
    for number in range(3):
        (raw / f"train/a/{number}-cut.png").write_bytes(png(0)[:-40])
    (raw / "train/a/empty.png").write_bytes(b"")
    result = run(FOLDERS, max_bad_fraction=0.01)
    assert result.exit_code == 2
    assert "2.0% of the images of raw cannot be used" in result.output
    assert "3 truncated (such as train/a/0-cut.png); 1 empty_file" in result.output
    assert "max_bad_fraction = 1.0%" in result.output
    assert not Path("out").exists()
    assert not Path("out.json").exists()
    assert not list(Path().glob(".out*"))
    kept = Path("scratch/dataset/quarantine.parquet")
    assert str(kept) in result.output
    assert read_table(kept, QUARANTINE).num_rows == 4


def test_a_failed_run_leaves_the_last_dataset_alone(raw: Path) -> None:
    ok(run(FOLDERS))
    before = tree_digest(Path("out"))
    (raw / "train/a/empty.png").write_bytes(b"")
    assert run(FOLDERS).exit_code == 2
    assert tree_digest(Path("out")) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [({"path": "nowhere"}, "dataset.source.path: nowhere does not exist"),
     ({"splits": {"train": "photos", "test": "test"}}, "no image in 'photos'"),
     ({"kind": "imagenet"}, "source.kind: there is no imagenet; did you mean image_folder?"),
     ({"template": []}, "template is not a field; did you mean templates?"),
     ({"holdout": {"validation": 0.0001, "test": 0.0, "seed": 0}}, "split validation of raw is empty")],
)  # fmt: skip
def test_a_users_mistake_is_a_message(raw: Path, change: dict[str, Any], told: str) -> None:
    result = run({**FOLDERS, **change})
    assert result.exit_code == 2
    assert told in result.output
    assert "Traceback" not in result.output
    assert not Path("out").exists()


@pytest.mark.parametrize("sample", sources("coco"))
def test_coco(sample: Path | None, tmp_path: Path) -> None:
    num_images, categories = (80, 80) if sample else (30, len(CATEGORIES))
    root = sample or write_coco(tmp_path / "coco", num_images)
    split = {
        "images": "train2017", "captions": "annotations/captions_train2017.json",
        "instances": "annotations/instances_train2017.json",
    }  # fmt: skip
    source = {
        "kind": "coco", "path": str(root), "splits": {"train": split},
        "holdout": {"validation": 0.2, "test": 0.2, "seed": 0},
    }  # fmt: skip
    ok(run(source, resize={"short_side": 64, "filter": "bicubic", "too_small": "upscale"}))
    facts = read_manifest(Path("out"), DATASET).facts
    metrics = json.loads(Path("out.json").read_text())
    assert sum(metrics["images"].values()) == num_images
    assert sum(metrics["captions"].values()) == 5 * num_images
    assert len(facts["categories"]) == categories
    seen = 0
    for row in read_table(Path("out/train-00000.parquet"), IMAGES).to_pylist():
        names = {
            facts["categories"][value - 1] for value in np.unique(decode_png(row["segmentation"])) if value
        }
        big = {
            t["name"] for t in row["things"] if t["box"][2] * t["box"][3] > 0.2 * row["height"] * row["width"]
        }
        assert big <= names
        seen += len(big)
    assert seen > 0


@pytest.mark.parametrize("sample", sources("tiny-imagenet-6k.tgz"))
def test_a_tar_of_class_folders(sample: Path | None, tmp_path: Path) -> None:
    top, cat, classes, total, near = (
        ("tiny-imagenet-6k", "n02124075", 200, 1000, 60)
        if sample
        else ("small", "n00000002", len(CLASSES), 120, 20)
    )
    source = {
        "kind": "image_folder", "path": str(sample or write_class_tar(tmp_path / "small.tgz")),
        "classes": "folders", "splits": {"train": f"{top}/val"},
        "holdout": {"validation": 0.1, "test": 0.6, "seed": 0}, "class_names": f"{top}/classes.tsv",
        "templates": ["a photo of {a} {}"],
    }  # fmt: skip
    ok(run(source, shard_bytes=8 << 20))
    split = ImageSplit.open(Path("out"), "test", 64)
    assert split.num_classes == classes
    splits = read_manifest(Path("out"), DATASET).facts["splits"]
    assert sum(entry["images"] for entry in splits.values()) == total
    assert abs(len(split) - 0.6 * total) < near
    at = split.class_names.index("Egyptian cat")
    where = int(np.flatnonzero(split.labels == at)[0])
    assert cat in split.ids[where]
    assert split.captions[where] == ["a photo of an Egyptian cat"]
