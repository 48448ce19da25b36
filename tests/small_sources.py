"""Small data sources in the layouts of public ones, drawn by us; the samples of the true ones where they are there."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

DATA = (Path(__file__).parents[1] / "../shared/data").resolve()
CATEGORIES = ["person", "bicycle", "dog", "kite"]
CLASSES = {"n00000001": "red square", "n00000002": "Egyptian cat", "n00000003": "blue lake"}


def sources(sample: str) -> list[Any]:
    """Cases of a test: `made`, and `sample` where that part of the true data is on this machine."""
    true = [sample] if (DATA / sample).exists() else []
    return [pytest.param(None, id="made"), *(pytest.param(DATA / name, id=name) for name in true)]


def write_coco(root: Path, num_images: int = 30) -> Path:
    """COCO's layout: photos of two sizes, five captions each, boxes, polygons and a crowd; `train2017` alone."""
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    images, captions, instances = [], [], []
    for number in range(num_images):
        width, height = (48, 64) if number % 3 else (80, 48)
        name = f"{number:012d}.jpg"
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "train2017" / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        captions += [
            {"id": 10 * number + n, "image_id": number, "caption": f"A {word} kite over photo {number}."}
            for n, word in enumerate(("red", "blue", "small", "large", "torn"))
        ]
        left, top, w, h = 4.5, 6.0, width * 0.75, height * 0.75
        ring = [left, top, left + w, top, left + w, top + h, left, top + h]
        kind = number % len(CATEGORIES)
        instances.append(
            {"id": 2 * number, "image_id": number, "category_id": 10 * kind + 1, "iscrowd": 0,
             "bbox": [left, top, w, h], "segmentation": [ring], "area": w * h}
        )  # fmt: skip
        crowd = {"counts": [0, width * 2, width * height - width * 2], "size": [height, width]}
        instances.append(
            {"id": 2 * number + 1, "image_id": number, "category_id": 1, "iscrowd": 1,
             "bbox": [0, 0, 2, height], "segmentation": crowd, "area": 2 * height}
        )  # fmt: skip
    kinds = [{"id": 10 * n + 1, "name": name} for n, name in enumerate(CATEGORIES)]
    for name, content in (
        ("captions", {"images": images, "annotations": captions}),
        ("instances", {"images": images, "annotations": instances, "categories": kinds}),
    ):
        (root / f"annotations/{name}_train2017.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def write_class_tar(path: Path, per_class: int = 40) -> Path:
    """A .tgz of folders by class, as of Tiny ImageNet, with a table of the classes' names."""
    table = "".join(f"{folder}\t{name}\n" for folder, name in CLASSES.items())
    with tarfile.open(path, "w:gz") as tar:
        _add(tar, "small/classes.tsv", table.encode())
        for at, folder in enumerate(CLASSES):
            for number in range(per_class):
                pixels = np.random.default_rng([at, number]).integers(0, 256, (64, 64, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG")
                _add(tar, f"small/val/{folder}/{folder}_{number}.JPEG", buffer.getvalue())
    return path


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


ADE20K_NAMES = ("wall", "building, edifice", "sky", *(f"thing {number}" for number in range(4, 151)))


def write_ade20k(root: Path, num_train: int = 12, num_test: int = 8) -> Path:
    """ADE20K's scene parsing release: JPEGs and masks in folders by split, and objectInfo150.txt.

    Images are of three shapes, light where the mask is 150 and dark where it is 1; a strip at the top is 0.
    """
    for split, word, count in (("training", "train", num_train), ("validation", "val", num_test)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for number in range(1, count + 1):
            width, height = ((48, 64), (80, 48), (40, 40))[number % 3]
            mask = np.ones((height, width), dtype=np.uint8)
            mask[:, : width // 2] = 150
            if number % 2 == 0:
                mask = np.roll(mask, number, axis=1)
            grey = np.where(mask == 150, 230, 30).astype(np.uint8)
            mask[:2] = 0
            name = f"ADE_{word}_{number:08d}"
            Image.fromarray(grey).convert("RGB").save(root / "images" / split / f"{name}.jpg")
            Image.fromarray(mask).save(root / "annotations" / split / f"{name}.png")
    lines = [f"{at}\t0.1\t10\t5\t1\t{name}" for at, name in enumerate(ADE20K_NAMES, 1)]
    table = "\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *lines]) + "\n"
    (root / "objectInfo150.txt").write_text(table, encoding="utf-8")
    return root
