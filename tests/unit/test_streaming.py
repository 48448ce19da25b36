"""Work over a split streams: how many images are in memory at a time does not depend on how many there are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.live import LiveImages
from tests.tiny import write_dataset
from tests.unit.test_evaluation_protocol import CPU, SIDE, FakeClip, Palette, Pictures, config, networks
from vqpipe.data.loader import ImageSplit
from vqpipe.evaluation.evaluate import read_folder
from vqpipe.evaluation.measure import evaluate
from vqpipe.metrics.distances import clip_features
from vqpipe.priors import measure as prior_measure
from vqpipe.priors.measure import (
    IMAGE_BATCH,
    TRAIN_CHUNK,
    crops,
    decoded,
    measure_sets,
    memorisation,
)
from vqpipe.priors.measure_conditions import Agreement, Watcher
from vqpipe.quantizers.contract import Codebook
from vqpipe.runtime import batches
from vqpipe.runtime.batches import AHEAD
from vqpipe.tokenizers.tokens import TokensParams, TokenSplit, write_tokens

BATCHES = AHEAD + 2
"""Batches of a source in memory: those that are ahead, the one that is worked on and the one before it."""


class Drawn:
    """Pictures that are drawn when they are asked for."""

    def __init__(self, count: int, live: LiveImages, seed: int = 0) -> None:
        self.ids, self._live, self._seed = [f"picture-{i}" for i in range(count)], live, seed

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: np.ndarray) -> Tensor:
        own = [Pictures(1, 10_000 * self._seed + int(position)).pixels for position in positions]
        return self._live.count(torch.cat(own))

    def images(self, start: int, stop: int) -> Tensor:
        return self.take(np.arange(start, min(stop, len(self))))

    def gather(self, positions: np.ndarray, *_: Any) -> Tensor:
        return self.take(positions)


class Counted(Palette):
    """A tokenizer whose reconstructions are counted."""

    groups = 2
    config = SimpleNamespace(quantizer=SimpleNamespace(kind="palette"))

    def __init__(self) -> None:
        self.live = LiveImages()

    def codebooks(self) -> list[Codebook]:
        return [Codebook(book.group, book.vectors, book.names) for book in super().codebooks()]

    def decode(self, indices: Tensor) -> Tensor:
        return self.live.count(super().decode(indices))


@pytest.mark.parametrize("count", [48, 160])
def test_an_evaluation_keeps_no_images(count: int) -> None:
    test, train, tokenizer = LiveImages(), LiveImages(), Counted()
    size = 4
    changes: dict[str, Any] = {
        "batch_size": size,
        "examples": {"num_images": 6, "num_codes": 4, "num_patches": 5, "replaced": {"num_images": 9, "ranks": (1,)}},
        "floors": {"num_patches": 600, "num_iterations": 1, "max_num_codes": 16},
    }  # fmt: skip
    evaluate(tokenizer, Drawn(count, test), config(**changes), networks(), Drawn(2 * count, train, 1))
    assert test.total >= count
    assert train.total >= 2 * count
    assert tokenizer.live.total >= count
    assert max(test.peak, train.peak) <= size * BATCHES
    assert tokenizer.live.peak <= 4 * size, "replaced tokens: a batch decoded in three ways"
    assert (test.now, train.now, tokenizer.live.now) == (0, 0, 0)


def test_tokens_keep_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_dataset(tmp_path, {"train": 41, "validation": 2, "test": 2})
    live, gather = LiveImages(), ImageSplit.gather
    monkeypatch.setattr(ImageSplit, "gather", lambda *args, **options: live.count(gather(*args, **options)))
    write_tokens(dataset, Counted(), tmp_path / "tokens", TokensParams(batch_size=3), CPU)  # type: ignore[arg-type]
    assert live.total == 45
    assert live.peak <= 3 * BATCHES
    assert live.now == 0


class Rows(Watcher):
    """Notes the rows that it is shown."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {}

    def add(self, name: str, rows: slice, images: Tensor, features: Tensor | None) -> None:
        assert len(images) == rows.stop - rows.start
        assert features is not None
        self.seen.setdefault(name, []).extend(range(rows.start, rows.stop))

    def agreement(self, name: str) -> Agreement:
        return Agreement()


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_prior_is_measured_without_keeping_images(monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    count, size = 3 * IMAGE_BATCH, 16
    monkeypatch.setattr(prior_measure, "TRAIN_CHUNK", size)
    test, train, tokenizer = LiveImages(), LiveImages(), Counted()
    generator = torch.Generator().manual_seed(0)
    names = ("samples", "unigram_samples", "reconstructions")
    codes = {name: torch.randint(0, 3, (count, 2, 4, 4), generator=generator) for name in names}
    clip: Any = FakeClip()
    split: Any = Drawn(count, test)
    watcher, compared = Rows(), np.arange(0, count, 3)
    sets = measure_sets(
        {name: partial(decoded, tokenizer.decode, own, CPU) for name, own in codes.items()},
        partial(crops, split, np.arange(count)), count, compared, clip_features(clip, CPU), config().distances,
        {name: [watcher] for name in ("samples", "test_images")},
    )  # fmt: skip
    assert watcher.seen == {name: list(range(count)) for name in ("test_images", "samples")}
    for name, own in codes.items():
        assert torch.equal(sets.kept[name], torch.cat(list(decoded(tokenizer.decode, own[compared], CPU))))
    assert len(sets.kept["test_images"]) == len(compared) == count // 3
    assert set(sets.distances) == set(names), "test images have no distance from themselves"
    assert all(found.fd_clip is not None for found in sets.distances.values())
    assert test.total == count
    assert test.peak <= IMAGE_BATCH * BATCHES
    assert tokenizer.live.peak <= 2 * IMAGE_BATCH

    images: Any = Drawn(chunks * size, train, 1)
    tokens = torch.randint(0, 3, (chunks * size, 2, 4, 4), generator=generator, dtype=torch.int32)
    near = memorisation(
        sets,
        {name: own[compared] for name, own in codes.items()},
        TokenSplit("train", images.ids, torch.zeros(len(images)).long(), tokens),
        images,
    )
    assert near.metrics().num_compared == len(compared)
    assert train.total == chunks * size
    assert train.peak <= size * BATCHES
    assert (test.now, train.now, tokenizer.live.now) == (0, 0, 0)


def test_the_chunks_of_the_training_images_do_not_change_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Pictures(40, 3).pixels
    wanted, sizes = None, (7, TRAIN_CHUNK)
    for size in sizes:
        search = prior_measure.NearestImages(Pictures(6, 4).pixels)
        for chunk in train.split(size):
            search.feed(chunk)
        wanted = search.rows if wanted is None else wanted
        assert torch.equal(search.rows, wanted)


def test_a_large_folder_is_not_in_memory_and_gives_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path, {"train": 5, "validation": 2, "test": 2})
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    (tmp_path / "raw" / "broken.png").write_bytes(b"not an image")
    small, left_out = read_folder(tmp_path / "raw", SIDE)
    monkeypatch.setattr(batches, "IN_MEMORY", 0)
    mapped = []
    monkeypatch.setattr(
        batches.np,
        "memmap",
        lambda *args, make=np.memmap, **options: mapped.append(args) or make(*args, **options),
    )
    large, also_left_out = read_folder(tmp_path / "raw", SIDE)
    assert len(mapped) == 1
    assert left_out == also_left_out
    assert sum(left_out.values()) == 1
    assert (large.ids, len(large)) == (small.ids, 9)
    assert torch.equal(large.pixels, small.pixels)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert torch.equal(large.take(np.array([3, 1])), small.pixels[[3, 1]])
