"""Streams of a split: CLIP's resizing, rows that cannot be read, order and bounds of what is read."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.data import stream
from vqpipe.data.images import RESIZE_MODES, Preprocess, decode_squares, encode_png, to_square
from vqpipe.data.stream import ImageStream
from vqpipe.errors import ArtifactError

FIT = ("bicubic", "shortest")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def row(name: str, image: np.ndarray, **changes: Any) -> dict[str, Any]:
    plain = {"image_id": name, "image": encode_png(image), "height": image.shape[0], "width": image.shape[1]}
    return dict.fromkeys(IMAGES.columns) | plain | changes


def write(folder: Path, *shards: list[dict[str, Any]]) -> Path:
    names = [f"train-{number:05d}.parquet" for number in range(len(shards))]
    facts = {"splits": {"train": {"images": sum(map(len, shards)), "shards": names}}, "classes": []}
    with publish_folder(folder, DATASET, facts) as partial:
        (partial / "quarantine.parquet").touch()
        for name, rows in zip(names, shards, strict=True):
            write_table(partial / name, IMAGES, to_table(IMAGES, rows))
            with pq.ParquetWriter(partial / name, pq.read_schema(partial / name)) as writer:
                writer.write_table(to_table(IMAGES, rows), row_group_size=3)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rows = [row(f"image-{at}", noise(8, 8, at)) for at in range(17)]
    return write(tmp_path / "dataset", rows[:7], rows[7:8], rows[8:])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize(("height", "width"), [(40, 90), (131, 57), (20, 31), (17, 17), (33, 32), (32, 32)])
def test_images_are_fitted_as_open_clip_fits_them(
    interpolation: str, resize_mode: str, height: int, width: int
) -> None:
    transform = image_transform(
        32, False, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation=interpolation, resize_mode=resize_mode
    )
    image = noise(height, width)
    expected = (transform(Image.fromarray(image)) * 255).round().int()
    found = torch.from_numpy(to_square(image, Preprocess(32, interpolation, resize_mode)).copy()).permute(
        2, 0, 1
    )
    # The part that is kept is computed alone, so that a coefficient may be rounded otherwise.
    assert (found.int() - expected).abs().max() <= 1


def test_a_very_long_image_costs_no_more_than_its_centre() -> None:
    assert to_square(noise(1, 60_000), Preprocess(224, *FIT)).shape == (224, 224, 3)  # whole: 9 GB


def test_rows_that_give_no_image_have_their_reason() -> None:
    good = noise(8, 8)
    png, jpeg = encode_png(good), io.BytesIO()
    Image.fromarray(good).save(jpeg, "JPEG")
    rows = [
        (png, 8, 8), (None, 8, 8), (b"", 8, 8), (b"not an image", 8, 8), (png[: len(png) // 2], 8, 8),
        (png, 8, 9), (png, 2, 2), (jpeg.getvalue(), 8, 8),
    ]  # fmt: skip
    found = decode_squares(Preprocess(8, *FIT), rows)
    assert [(at, reason) for at, reason, _ in found.bad] == [
        (1, "empty_file"), (2, "empty_file"), (3, "undecodable"), (4, "truncated"),
        (5, "size_mismatch"), (6, "too_many_pixels"),
    ]  # fmt: skip
    np.testing.assert_array_equal(found.pixels[0], good.transpose(2, 0, 1))
    assert found.pixels.shape == (2, 3, 8, 8)


@pytest.mark.parametrize("workers", ["1", "3"])
def test_spans_are_read_in_order_across_shards(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", workers)
    monkeypatch.setattr(stream, "CHUNK", 2)
    images = ImageStream.open(dataset, "train", 8, *FIT)
    assert len(images) == 17
    spans = [range(0, 1), range(1, 6), range(6, 12), range(15, 17)]
    for span, (ids, pixels) in zip(spans, images.read(spans), strict=True):
        assert ids == [f"image-{at}" for at in span]
        expected = np.stack([noise(8, 8, at) for at in span]).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(pixels.numpy(), expected)


@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_damaged_image_is_named_and_never_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", workers)
    monkeypatch.setattr(stream, "CHUNK", 2)
    rows = [row(f"image-{at}", noise(5 + at, 9)) for at in range(8)]
    rows[6]["image"] = b"broken"
    images = ImageStream.open(write(tmp_path / "d", rows), "train", 6, *FIT).read([range(1, 4), range(4, 8)])
    assert next(images)[1].shape == (3, 3, 6, 6)
    with pytest.raises(
        ArtifactError, match=r"(?s)train-00000.parquet: image image-6 is damaged.*undecodable.*repro dataset"
    ):
        next(images)


def test_only_the_row_groups_of_the_spans_are_read(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = stream._read_group, []
    monkeypatch.setattr(stream, "_read_group", lambda group: (seen.append(group.first), read(group))[1])
    images = ImageStream.open(dataset, "train", 8, *FIT)
    assert seen == []
    list(images.read([range(4, 5), range(5, 9)]))
    assert seen == [3, 6, 7, 8]


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EIO, "Input/output error")])
def test_a_machine_that_fails_is_no_damage(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    images = ImageStream.open(dataset, "train", 8, *FIT)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", fail)
    with pytest.raises(type(error)):
        list(images.read([range(4, 5)]))


def test_a_damaged_shard_is_reported(dataset: Path) -> None:
    path = dataset / "train-00002.parquet"
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    start = column.data_page_offset
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    images = ImageStream.open(dataset, "train", 8, *FIT)
    with pytest.raises(ArtifactError, match=r"train-00002\.parquet is damaged"):
        list(images.read([range(8, 17)]))
