"""Crops, flips and the order of batches, from memory and from a pack."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.damage import DAMAGES, DELETED
from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES, QUARANTINE
from vqpipe.artifacts.tables import ShardWriter, read_table, to_table, write_table
from vqpipe.data import loader
from vqpipe.data.build import to_row
from vqpipe.data.loader import ImageSplit, epoch_order, to_float, to_uint8
from vqpipe.data.records import Record
from vqpipe.errors import ArtifactError, DataError, MismatchError
from vqpipe.runtime import distributed
from vqpipe.runtime.batches import read_ahead, slices

SHAPES = [(8, 8), (8, 13), (11, 8), (9, 9), (30, 8)]
RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


@pytest.fixture(autouse=True)
def _own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    out = tmp_path / "dataset"
    facts: dict[str, Any] = {}
    with publish_folder(out, DATASET, facts) as folder:
        writer = ShardWriter(folder, "train", IMAGES, shard_bytes=1)
        for at, picture in enumerate(PICTURES):
            label = {"label": at % 2, "label_name": "ab"[at % 2]} if at else {}
            record = Record(f"image-{at}", picture, captions=(f"caption {at}",) * at, **label)  # type: ignore[arg-type]
            writer.write(to_table(IMAGES, [to_row(record)]))
        writer.close()
        write_table(folder / "quarantine.parquet", QUARANTINE, to_table(QUARANTINE, []))
        empty = {"images": 0, "shards": []}
        facts.update(
            kind="test", classes=["a", "b"], categories=[], resolution=8,
            splits={"train": {"images": 5, "shards": writer.shards}, "validation": empty, "test": empty},
        )  # fmt: skip
    return out


def centre(picture: np.ndarray, side: int) -> np.ndarray:
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    return picture[top : top + side, left : left + side].transpose(2, 0, 1)


@pytest.mark.parametrize("memory_bytes", [1 << 30, 0])
def test_images_are_centre_crops_in_order(dataset: Path, memory_bytes: int) -> None:
    split = ImageSplit.open(dataset, "train", 8, memory_bytes)
    assert len(split) == 5
    assert split.ids == [f"image-{at}" for at in range(5)]
    assert split.labels.dtype == np.int64
    assert split.labels.tolist() == [-1, 1, 0, 1, 0]
    assert split.captions == [[f"caption {at}"] * at for at in range(5)]
    assert (split.num_classes, split.class_names) == (2, ["a", "b"])
    got = split.images(1, 99)
    assert got.dtype == torch.uint8
    assert np.array_equal(got.numpy(), np.stack([centre(picture, 8) for picture in PICTURES[1:]]))


def test_a_smaller_resolution_crops_and_does_not_resize(dataset: Path) -> None:
    got = ImageSplit.open(dataset, "train", 4).gather([3, 0, 3], None, "centre", flip=False)
    assert np.array_equal(got.numpy(), np.stack([centre(PICTURES[at], 4) for at in (3, 0, 3)]))


def test_random_crops_reach_every_place_and_are_true_crops(dataset: Path) -> None:
    split = ImageSplit.open(dataset, "train", 8)
    got = split.gather([2] * 200, np.random.default_rng(1), "random", flip=True).numpy()
    allowed = {}
    for top in range(4):
        piece = PICTURES[2][top : top + 8].transpose(2, 0, 1)
        allowed |= {
            piece.tobytes(): (top, False),
            np.ascontiguousarray(piece[..., ::-1]).tobytes(): (top, True),
        }
    seen = {allowed[crop.tobytes()] for crop in got}
    assert seen == {(top, turned) for top in range(4) for turned in (False, True)}


def test_upright_images_are_not_mirrored_and_change_no_other_draw(dataset: Path) -> None:
    split, indices = ImageSplit.open(dataset, "train", 8), [4, 3, 2, 1, 0] * 40

    def drawn(flip: bool, upright: np.ndarray | None, share: slice = slice(None)) -> np.ndarray:
        rng = np.random.default_rng(3)
        return split.gather(indices, rng, "random", flip, share, upright).numpy()

    plain, mirrored = drawn(False, None), drawn(True, None)
    upright = np.arange(200) % 3 == 0
    found = drawn(True, upright)
    assert np.array_equal(found[upright], plain[upright])
    assert np.array_equal(found[~upright], mirrored[~upright])
    turned = (mirrored != plain).any(axis=(1, 2, 3))
    assert 20 < turned[upright].sum() < 50, (
        "a third of the draws would have been mirrored in half of the cases"
    )
    assert np.array_equal(drawn(True, upright, slice(50, 90)), found[50:90])
    assert np.array_equal(drawn(True, np.zeros(200, dtype=bool)), mirrored)


def test_both_stores_give_the_same_batches(dataset: Path) -> None:
    def batch(memory_bytes: int, seed: int) -> np.ndarray:
        split = ImageSplit.open(dataset, "train", 8, memory_bytes)
        return split.gather([4, 1, 1, 2, 0], np.random.default_rng(seed), "random", flip=True).numpy()

    assert np.array_equal(batch(1 << 30, 7), batch(0, 7))
    assert np.array_equal(batch(0, 7), batch(0, 7))
    assert not np.array_equal(batch(0, 7), batch(0, 8))


@pytest.mark.parametrize("memory_bytes", [1 << 30, 0])
def test_any_number_of_workers_gives_the_same_bytes(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int
) -> None:
    def read(workers: int) -> torch.Tensor:
        monkeypatch.setenv("VQPIPE_WORKERS", str(workers))
        split = ImageSplit.open(dataset, "train", 8, memory_bytes)
        rows = slices(len(split), 2)
        return torch.cat(list(read_ahead(lambda at: split.images(at.start, at.stop), rows)))

    assert torch.equal(read(1), read(2))
    assert torch.equal(read(1), read(5))


def test_batches_of_a_pack_are_decoded_in_workers_before_they_are_needed(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "2")
    split = ImageSplit.open(dataset, "train", 8, 0)
    decode, threads = loader._planes, dict[str, int]()
    decoded = [threading.Event() for _ in PICTURES]
    together = threading.Barrier(2)

    def watched(data: bytes, where: str) -> np.ndarray:
        number = int(where.rpartition(" ")[2])
        if number < 2:
            together.wait(60)  # two images of a batch at the same time
        threads[threading.current_thread().name] = number
        decoded[number].set()
        return decode(data, where)

    monkeypatch.setattr(loader, "_planes", watched)
    batches = read_ahead(lambda at: split.images(at.start, at.stop), slices(len(split), 2))
    assert len(next(batches)) == 2
    assert all(event.wait(60) for event in decoded), "while the first batch is worked on"
    assert len(threads) == 2
    assert threading.current_thread().name not in threads
    assert sum(map(len, batches)) == 3


def test_a_pack_follows_its_dataset(dataset: Path, tmp_path: Path) -> None:
    ImageSplit.open(dataset, "train", 8, 0)
    packs = tmp_path / "scratch" / "packs"
    first = {path.name: path.stat().st_mtime_ns for path in packs.iterdir()}
    ImageSplit.open(dataset, "train", 8, 0)
    assert {path.name: path.stat().st_mtime_ns for path in packs.iterdir()} == first
    assert len(first) == 2


@pytest.mark.parametrize("damage", [*DAMAGES.values(), *DELETED.values()], ids=[*DAMAGES, *DELETED])
@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_a_damaged_pack_is_built_again(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    ending: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loader, "BLOCK", 1 << 10)
    monkeypatch.setattr(loader, "PIECE", 1 << 8)
    good = ImageSplit.open(dataset, "train", 8, 0).images(0, 5)
    packs = tmp_path / "scratch" / "packs"
    before = {path.name: path.read_bytes() for path in packs.iterdir()}
    (file,) = packs.glob(f"*.{ending}")
    damage(file)
    monkeypatch.setattr(loader, "_sound", {})  # as in another process
    assert torch.equal(ImageSplit.open(dataset, "train", 8, 0).images(0, 5), good)
    assert {path.name: path.read_bytes() for path in packs.iterdir()} == before
    said = capsys.readouterr().err
    assert said.count("\n") == (0 if damage is Path.unlink and ending == "safetensors" else 1)
    assert not said or said.endswith("; the pack is built again\n")


def test_a_pack_is_compared_with_its_checksums_once_per_process(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    digests = loader._digests
    monkeypatch.setattr(loader, "_digests", lambda path, pool: (read.append(path), digests(path, pool))[1])
    for _ in range(3):
        ImageSplit.open(dataset, "train", 8, 0)
    assert len(read) == 2, "when it was built, and when it was opened again"


def damaged(dataset: Path, out: Path) -> Path:
    """The dataset with an image of the train split cut short."""
    manifest = read_manifest(dataset, DATASET)
    name = manifest.facts["splits"]["train"]["shards"][0]
    with publish_folder(out, DATASET, manifest.facts) as partial:
        shutil.copytree(dataset, partial, dirs_exist_ok=True)
        table = read_table(dataset / name, IMAGES)
        images = table.column("image").to_pylist()
        images[0] = images[0][: len(images[0]) // 2]
        at = table.column_names.index("image")
        write_table(partial / name, IMAGES, table.set_column(at, "image", pa.array(images, pa.binary())))
    return out


@pytest.mark.parametrize("memory_bytes", [1 << 30, 0])
def test_a_damaged_image_is_named(dataset: Path, tmp_path: Path, memory_bytes: int) -> None:
    folder = damaged(dataset, tmp_path / "damaged")
    with pytest.raises(ArtifactError, match=r"(?s)image .* is damaged.*dvc checkout, or dvc repro dataset"):
        ImageSplit.open(folder, "train", 8, memory_bytes).images(0, 5)


def test_gathering_does_not_change_what_is_stored(dataset: Path) -> None:
    split = ImageSplit.open(dataset, "train", 8)
    before = split.images(0, 5)
    split.gather([0, 1, 2, 3, 4], None, "centre", flip=False).zero_()
    assert torch.equal(split.images(0, 5), before)


def test_mistakes_are_reported(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MismatchError, match=r"4 of 5 train images are smaller than 9(.|\n)*resize\.short_side"
    ):
        ImageSplit.open(dataset, "train", 9)
    with pytest.raises(DataError, match=r"no split val\n(.|\n)*choices:  (.*)validation"):
        ImageSplit.open(dataset, "val", 8)
    with pytest.raises(ArtifactError, match="dvc repro dataset"):
        ImageSplit.open(tmp_path / "nowhere", "train", 8)
    with pytest.raises(ValueError, match="random generator"):
        ImageSplit.open(dataset, "train", 8).gather([0], None, "random", flip=False)


def test_every_byte_survives_the_trip_to_floats() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = to_float(values)
    assert (floats.min().item(), floats.max().item()) == (-1.0, 1.0)
    assert torch.equal(to_uint8(floats), values)
    assert to_uint8(torch.tensor([-9.0, 9.0, 0.0])).tolist() == [0, 255, 128]


def test_an_epoch_shows_every_item_once() -> None:
    steps = [epoch_order(20, 4, 1, step) for step in range(10)]
    assert sorted(np.concatenate(steps[:5]).tolist()) == list(range(20))
    assert sorted(np.concatenate(steps[5:]).tolist()) == list(range(20))
    assert np.concatenate(steps[:5]).tolist() != np.concatenate(steps[5:]).tolist()
    assert epoch_order(20, 4, 2, 0).tolist() != steps[0].tolist()


def test_the_last_partial_batch_is_dropped() -> None:
    seen = np.concatenate([epoch_order(10, 4, 0, step) for step in range(2)])
    assert len(set(seen.tolist())) == 8
    assert set(np.concatenate([epoch_order(10, 4, 0, step) for step in (2, 3)]).tolist()) != set(
        seen.tolist()
    )


def test_ranks_share_the_batch_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = epoch_order(30, 6, 5, 7), []
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(whole[distributed.own_share(6)])
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_batches_that_cannot_be_made() -> None:
    with pytest.raises(MismatchError, match="do not fill one batch"):
        epoch_order(3, 4, 0, 0)
