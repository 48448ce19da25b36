"""Images with masks in ADE20K's form: which mask belongs to which image, what is refused, and what is counted."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.small_sources import DATA, write_ade20k
from vqpipe.artifacts.specs.dataset import IMAGES, QUARANTINE
from vqpipe.artifacts.tables import iter_batches, read_table
from vqpipe.cli.presets import load_preset
from vqpipe.data.adapters.image_masks import class_names
from vqpipe.data.annotations import LabelMaps
from vqpipe.data.build import DatasetMetrics, DatasetParams, Source, build_dataset
from vqpipe.data.images import ORIENTATION, decode_png
from vqpipe.errors import DataError, ParamsError
from vqpipe.params.base import validate

SPLITS = {
    "train": {"images": "images/training", "masks": "annotations/training"},
    "test": {"images": "images/validation", "masks": "annotations/validation"},
}


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


def source(root: Path, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "image_masks", "path": str(root), "splits": SPLITS, "num_classes": 150, "captions": ["a scene"],
        "holdout": {"validation": 0.2, "test": 0.0, "seed": 0}, "class_names": "objectInfo150.txt", **changes,
    }  # fmt: skip


def params(root: Path, short_side: int | None = None, bad: float = 0.0, **changes: Any) -> DatasetParams:
    resize = {"short_side": short_side, "filter": "bicubic", "too_small": "upscale"}
    given = {
        "source": source(root, **changes),
        "resize": resize,
        "max_bad_fraction": bad,
        "max_pixels": 1 << 20,
    }
    given |= {"max_bad_annotation_fraction": 1.0, "shard_bytes": 1 << 20}
    return validate(given, "dataset", DatasetParams)


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        row["image_id"]: row
        for shard in sorted(folder.glob("*-0*.parquet"))
        for batch in iter_batches(shard, IMAGES)
        for row in batch.to_pylist()
    }


def left_out(
    root: Path, out: Path, bad: float = 0.5, **changes: Any
) -> tuple[DatasetMetrics, dict[str, Any]]:
    """Build a dataset; what is in its quarantine, by item."""
    metrics = build_dataset(params(root, bad=bad, **changes), out)
    table = read_table(out / "quarantine.parquet", QUARANTINE).to_pylist()
    return metrics, {row["item"]: (row["reason"], row["detail"]) for row in table}


def test_every_image_gets_the_mask_of_its_name(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path / "in")
    metrics = build_dataset(params(root), tmp_path / "out")
    assert sum(metrics.images.values()) == 20
    assert metrics.images["test"] == 8
    assert min(metrics.images.values()) > 0
    assert (metrics.quarantined, metrics.bad_fraction) == ({}, 0.0)
    found = rows(tmp_path / "out")
    for path in sorted(root.glob("images/*/*.jpg")):
        row = found[str(path.relative_to(root))]
        mask = root / "annotations" / path.parent.name / f"{path.stem}.png"
        assert np.array_equal(decode_png(row["segmentation"]), np.array(Image.open(mask)))
        assert row["captions"] == ["a scene"]
    maps = LabelMaps.open(tmp_path / "out", "test", 16)
    assert (len(maps.classes), maps.classes[:2]) == (150, ("wall", "building"))


def test_the_page_and_the_preset_have_the_same_source() -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    block = page[page.index("## Images with masks") :].split("```yaml\n")[1].split("```")[0]
    own = YAML(typ="safe").load(block)["dataset"]["source"]
    assert own == load_preset("ade20k")["dataset"]["source"]
    assert validate(own, "dataset.source", Source).splits["test"].masks == "annotations/validation"  # type: ignore[arg-type]


def test_masks_are_resized_by_the_nearest_pixel_and_cut_as_their_images(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path / "in")
    build_dataset(params(root, short_side=16), tmp_path / "out")
    maps = LabelMaps.open(tmp_path / "out", "test", 16)
    written = sorted(root.glob("annotations/validation/*.png"))
    allowed = [set(np.unique(np.array(Image.open(path)).astype(int) - 1)) for path in written]
    for row in rows(tmp_path / "out").values():
        assert min(row["height"], row["width"]) == 16
        assert decode_png(row["segmentation"]).shape == (row["height"], row["width"])
    for own, numbers in zip(maps.get(range(8)), allowed, strict=True):
        assert set(own.unique().tolist()) <= numbers, "a number was invented"
    # The image's halves are dark and light where the mask's are 1 and 150: both are cut alike.
    first = rows(tmp_path / "out")["images/validation/ADE_val_00000001.jpg"]
    pixels, mask = decode_png(first["image"]), decode_png(first["segmentation"])
    light = pixels.mean(axis=2) > 127
    assert (light == (mask == 150)).mean() > 0.9


def test_images_without_a_usable_mask_are_quarantined(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path / "in")
    masks = sorted((root / "annotations/training").glob("*.png"))
    image = [f"images/training/{path.stem}.jpg" for path in masks]
    (width, height) = Image.open(masks[0]).size
    masks[0].unlink()
    masks[1].write_bytes(b"not an image")
    masks[2].write_bytes(masks[2].read_bytes()[:60])
    Image.open(masks[3]).resize((width + 1, height)).save(masks[3])
    put(masks[4], 151)
    Image.open(masks[5]).convert("RGB").save(masks[5])
    masks[6].write_bytes(b"")
    jpeg = io.BytesIO()
    Image.open(masks[7]).save(jpeg, "JPEG")
    masks[7].write_bytes(jpeg.getvalue())
    masks[8].write_bytes(four_bits(*Image.open(masks[8]).size))
    metrics, found = left_out(root, tmp_path / "out", bad=0.5)
    assert {item: reason for item, (reason, _) in found.items()} == {
        image[0]: "missing_file", image[1]: "undecodable", image[2]: "truncated", image[3]: "size_mismatch",
        image[4]: "unsupported_pixels", image[5]: "unsupported_pixels", image[6]: "empty_file",
        image[7]: "undecodable", image[8]: "unsupported_pixels",
    }  # fmt: skip
    for (_, detail), mask in zip((found[name] for name in image[:9]), masks, strict=False):
        assert detail.startswith(f"mask annotations/training/{mask.name}: ")
    assert found[image[4]][1].endswith("number 151; there are 150 classes")
    assert metrics.bad_fraction == pytest.approx(9 / 20)
    with pytest.raises(DataError, match=r"(?s)45.0% of the images .*max_bad_fraction = 40.0%"):
        build_dataset(params(root, bad=0.4), tmp_path / "other")


def put(path: Path, number: int) -> None:
    """Write a number into one pixel of a mask."""
    values = np.array(Image.open(path))
    values[0, 0] = number
    Image.fromarray(values).save(path)


def four_bits(width: int, height: int) -> bytes:
    """A greyscale PNG of 4 bits, which Pillow would scale: 1 becomes 17."""

    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + b"\x11" * ((width + 1) // 2)
    header = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)
    body = part(b"IHDR", header) + part(b"IDAT", zlib.compress(row * height)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_palette_masks_give_their_indices(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path / "in")
    path = sorted((root / "annotations/validation").glob("*.png"))[0]
    numbers = np.array(Image.open(path))
    coloured = Image.fromarray(numbers).convert("P")
    coloured.putdata(numbers.ravel().tolist())
    coloured.putpalette([value % 256 for at in range(256) for value in (at * 7, at * 3, 255 - at)])
    coloured.save(path)
    build_dataset(params(root), tmp_path / "out")
    row = rows(tmp_path / "out")["images/validation/ADE_val_00000001.jpg"]
    assert np.array_equal(decode_png(row["segmentation"]), numbers)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "damaged"])
def test_masks_are_turned_as_their_images(tmp_path: Path, orientation: int, kind: str) -> None:
    root = write_ade20k(tmp_path / "in")
    path = root / "images/training/ADE_train_00000001.jpg"
    numbers = np.full((24, 40), 150, dtype=np.uint8)
    numbers[:8, :] = numbers[:, :8] = 1
    numbers[16:, 32:] = 75  # no turn of it, nor any mirror image, is equal to it
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    stored = Image.fromarray(numbers).convert("RGB")
    stored.save(path, "PNG" if kind == "damaged" else kind, exif=tags, quality=95)
    if kind == "damaged":  # a colour profile that no decoder can unpack
        content, body = path.read_bytes(), b"iCCPp\0\0" + b"\xff" * 8
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", 1)
        path.write_bytes(content[:33] + chunk + content[33:])
    mask = root / "annotations/training/ADE_train_00000001.png"
    Image.fromarray(numbers).save(mask)
    build_dataset(params(root), tmp_path / "out")
    row = rows(tmp_path / "out")["images/training/ADE_train_00000001.jpg"]
    found = decode_png(row["segmentation"])
    np.testing.assert_allclose(decode_png(row["image"]), np.repeat(found[..., None], 3, axis=2), atol=20)
    assert np.array_equal(found, numbers) == (orientation == 1)


def test_a_mask_of_the_upright_image_is_refused(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path / "in")
    path = root / "images/training/ADE_train_00000001.jpg"
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=tags)
    height, width = np.array(Image.open(root / "annotations/training/ADE_train_00000001.png")).shape
    _, found = left_out(root, tmp_path / "out")
    reason, detail = found["images/training/ADE_train_00000001.jpg"]
    assert reason == "size_mismatch"
    assert detail.endswith(
        f"{height} x {width} pixels, turned as the image; the image has {width} x {height}"
    )


def test_masks_without_images_are_annotations_that_are_left_out(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path / "in")
    (root / "images/training/ADE_train_00000003.jpg").unlink()
    (root / "annotations/training/notes.txt").write_text("not a mask")
    metrics, found = left_out(root, tmp_path / "out", bad=0.0)
    orphan = "annotations/training/ADE_train_00000003.png"
    assert found == {orphan: ("orphan_annotation", "a mask without an image of its name")}
    assert sum(metrics.images.values()) == 19
    assert metrics.bad_annotation_fraction == pytest.approx(1 / 20)


def test_a_mask_that_a_link_puts_outside_is_refused(tmp_path: Path) -> None:
    root = write_ade20k(tmp_path / "in")
    mask = root / "annotations/training/ADE_train_00000001.png"
    os.replace(mask, tmp_path / "elsewhere.png")
    mask.symlink_to(tmp_path / "elsewhere.png")
    _, found = left_out(root, tmp_path / "out")
    assert found["images/training/ADE_train_00000001.jpg"][0] == "unsafe_path"


@pytest.mark.parametrize(("text", "names"), [
    ("wall\nbuilding, edifice\n\nsky\n", ["wall", "building", "sky"]),
    ("Idx\tRatio\tStuff\tName\n1\t0.16\t1\twall\n2\t0.1\t1\tbuilding;edifice \n3\t0\t1\tsky\n",
     ["wall", "building", "sky"]),
    ("\ufeff1\twall\n2\tbuilding\n3\tsky", ["wall", "building", "sky"]),
])  # fmt: skip
def test_class_names_are_a_list_or_a_table(tmp_path: Path, text: str, names: list[str]) -> None:
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    assert class_names(asked(tmp_path, num_classes=3, class_names="names.txt")) == names


@pytest.mark.parametrize(("text", "found"), [
    ("wall\nbuilding\n", r"(?s)classes 1 to 3.*2 lines, with the numbers 1, 2"),
    ("1\twall\n3\tsky\n2\tbuilding\n", r"(?s)classes 1 to 3.*1, 3, 2"),
    ("wall\n,\nsky\n", r"no name for class 2"),
    ("", r"(?s)classes 1 to 3.*0 lines, with the numbers nothing"),
])  # fmt: skip
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=found):
        class_names(asked(tmp_path, num_classes=3, class_names="names.txt"))


def test_without_a_list_classes_have_their_numbers(tmp_path: Path) -> None:
    assert class_names(asked(tmp_path, num_classes=2, class_names=None)) == ["class 1", "class 2"]
    with pytest.raises(DataError, match=r"(?s)dataset.source.class_names: .*no.txt does not exist"):
        class_names(asked(tmp_path, class_names="no.txt"))


def asked(root: Path, **changes: Any) -> Any:
    return validate(source(root, **changes), "dataset.source", Source)  # type: ignore[arg-type]


@pytest.mark.parametrize(("changes", "found"), [
    ({"num_classes": 256}, "num_classes"),
    ({"num_classes": 0}, "num_classes"),
    ({"splits": {"train": {"images": "a", "masks": "a/masks"}},
      "holdout": {"validation": 0.1, "test": 0.1, "seed": 0}}, "a and a/masks are not separate folders"),
    ({"holdout": {"validation": 0.1, "test": 0.1, "seed": 0}}, "test comes from two places"),
])  # fmt: skip
def test_params_that_cannot_be_meant_are_refused(tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(ParamsError, match=found):
        asked(tmp_path, **changes)


@pytest.mark.parametrize("lacking", ["images", "masks"])
def test_a_missing_folder_is_named(tmp_path: Path, lacking: str) -> None:
    root = write_ade20k(tmp_path / "in")
    splits = {**SPLITS, "test": {**SPLITS["test"], lacking: "nowhere"}}
    with pytest.raises(DataError, match=rf"(?s)splits.test.{lacking}: .*nowhere does not exist.*annotations"):
        build_dataset(params(root, splits=splits), tmp_path / "out")


@pytest.mark.skipif(not (DATA / "ade20k").is_dir(), reason="no ../shared/data/ade20k on this machine")
def test_the_samples_of_ade20k_are_read(tmp_path: Path) -> None:
    splits = {"train": {"images": "images", "masks": "annotations"}}
    config = params(
        DATA / "ade20k", short_side=64, class_names=None, splits=splits,
        holdout={"validation": 0.3, "test": 0.4, "seed": 0},
    )  # fmt: skip
    metrics = build_dataset(config, tmp_path / "out")
    assert (sum(metrics.images.values()), metrics.quarantined) == (10, {})
    known = [
        number
        for row in rows(tmp_path / "out").values()
        for number in np.unique(decode_png(row["segmentation"]))
    ]
    assert max(known) <= 150
    assert len(set(known)) > 40
