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
