"""Agreement of images with classes, captions and maps, against judges whose answers are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqpipe.evaluation.judges import Found, Judged
from vqpipe.evaluation.judges_measure import map_agreement
from vqpipe.priors import measure_conditions
from vqpipe.priors.measure_conditions import (
    CHANCE,
    Agreement,
    CaptionWatcher,
    ClassWatcher,
    MapWatcher,
    TextWatcher,
    condition_metrics,
    r_precision,
)
from vqpipe.runtime import batches


class Reader:
    """A judge that reads the red value of a pixel as its class, and that of the first pixel as the image's."""

    classes, categories = ("a", "b", "c"), ("x", "y", "z")

    def class_of(self, images: Tensor) -> Tensor:
        return F.one_hot(images[:, 0, 0, 0].long(), 3).float()

    def segment(self, images: Tensor) -> Tensor:
        return images[:, 0].long()


def judge() -> Any:
    return Reader()


def pictures(values: Tensor) -> Tensor:
    """Images that `Reader` reads as these classes, (n,) or (n, h, w)."""
    maps = values if values.ndim == 3 else values[:, None, None].expand(-1, 2, 2)
    return maps[:, None].expand(-1, 3, -1, -1).to(torch.uint8)


def show(watcher: Any, name: str, images: Tensor, size: int, features: Tensor | None = None) -> None:
    for start in range(0, len(images), size):
        rows = slice(start, min(start + size, len(images)))
        watcher.add(name, rows, images[rows], None if features is None else features[rows])


@pytest.fixture(autouse=True)
def _the_next_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance is the next image's condition in these tests, so that it can be worked out."""
    monkeypatch.setattr(measure_conditions, "other_examples", lambda n, seed: np.roll(np.arange(n), -1))


def test_samples_have_the_asked_classes_and_test_images_their_own() -> None:
    asked, own = torch.tensor([0, 1, 2, -1]), torch.tensor([2, 2, 1, 1])
    watcher = ClassWatcher(judge(), asked, own)
    show(watcher, "samples", pictures(torch.tensor([0, 1, 0, 0])), 3)
    show(watcher, "test_images", pictures(torch.tensor([2, 2, 1, 0])), 4)
    assert watcher.agreement("samples").class_accuracy == pytest.approx(2 / 3)
    assert watcher.agreement("test_images").class_accuracy == 0.75
    # The next images' classes are 1, 2, none, 0.
    assert watcher.agreement(CHANCE).class_accuracy == pytest.approx(1 / 3)


def test_no_class_among_the_samples_is_no_number() -> None:
    watcher = ClassWatcher(judge(), torch.tensor([-1, -1]), torch.tensor([0, 1]))
    show(watcher, "samples", pictures(torch.tensor([0, 1])), 2)
    assert watcher.agreement("samples") == Agreement()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_maps_are_compared_in_any_batches(size: int) -> None:
    rng = torch.Generator().manual_seed(0)
    maps = torch.randint(-1, 3, (5, 4, 4), generator=rng)
    found = torch.randint(0, 3, (5, 4, 4), generator=rng)
    watcher = MapWatcher(judge(), lambda rows: maps[torch.from_numpy(rows)], 5, 3)
    show(watcher, "samples", pictures(found), size)
    show(watcher, "test_images", pictures(maps.clamp_min(0)), size)
    for name, truth in (("samples", maps), (CHANCE, maps.roll(-1, 0))):
        expected = map_agreement(found, truth, 3)
        assert expected is not None
        assert watcher.agreement(name) == Agreement(
            mean_iou=expected.mean_iou, pixel_accuracy=expected.pixel_accuracy
        )
    assert watcher.agreement("test_images") == Agreement(mean_iou=1.0, pixel_accuracy=1.0)


def test_maps_without_a_class_are_no_number() -> None:
    watcher = MapWatcher(judge(), lambda rows: torch.full((len(rows), 2, 2), -1), 2, 3)
    show(watcher, "samples", pictures(torch.tensor([0, 1])), 2)
    assert watcher.agreement("samples") == Agreement()


def units(count: int, dim: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=rng).double(), dim=1)


def test_r_precision_is_that_of_shuffled_captions() -> None:
    images, texts, own = units(9, 4, 0), units(12, 4, 1), torch.arange(9)
    found = r_precision(images, texts, own, 5, 3, seed=7)
    again = r_precision(images[2:5], texts, own[2:5], 5, 3, seed=7)
    assert len(found) == len(again) == 3
    # With all captions as candidates there is nothing to draw.
    whole = r_precision(images, texts, own, 12, 2, seed=0)
    best = (images @ texts.T).argmax(1) == own
    assert whole.tolist() == [float(best.double().mean())] * 2
    assert found.mean() >= whole.mean(), "of fewer candidates the right one is first more often"
    assert (r_precision(texts, texts, torch.arange(12), 12, 1, 0) == 1).all()


def test_images_without_relation_find_their_caption_as_often_as_chance() -> None:
    images, texts = units(600, 8, 0), units(600, 8, 1)
    found = r_precision(images, texts, torch.arange(600), 10, 4, seed=0)
    assert found.mean() == pytest.approx(0.1, abs=0.03)
    assert found.std() > 0, "the others differ from draw to draw"


def test_equal_cosines_count_against_an_image() -> None:
    texts = units(1, 4, 0).expand(3, -1)
    assert r_precision(texts[:1], texts, torch.tensor([0]), 3, 1, 0)[0] == 0


class Embedder:
    """A CLIP whose text embeddings are those of its table, and whose image embeddings are pixels."""

    mean = torch.zeros(1)
    table: dict[str, Tensor] = dict(zip(["red", "green", "blue", "grey"], torch.eye(4), strict=True))  # noqa: RUF012

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.stack([self.table[text] for text in texts])

    def encode_image(self, images: Tensor) -> Tensor:
        return (images.flatten(1)[:, :4] + 1) / 2


def watcher_of(captions: list[str], reused: bool) -> TextWatcher:
    clip: Any = Embedder()
    return TextWatcher(clip, captions, ["red", "green", "blue", "grey", "red"], 0, reused)


@pytest.mark.parametrize("reused", [True, False])
def test_captions_are_compared_by_the_clip(reused: bool) -> None:
    captions = ["red", "green", "", "blue"]
    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    images[0, 0, 0, 0] = images[1, 0, 0, 1] = images[3, 0, 0, 0] = 255  # the last shows red, and not blue
    watcher = watcher_of(captions, reused)
    show(watcher, "samples", images, 3, images.flatten(1)[:, :4].float() if reused else None)
    assert watcher.num_candidates == 4
    found = watcher.agreement("samples")
    assert found.clip_similarity == pytest.approx(2 / 3)
    assert found.r_precision == pytest.approx(2 / 3)
    assert found.r_precision_std == pytest.approx(0, abs=1e-9)
    assert watcher.agreement(CHANCE).clip_similarity == pytest.approx(1 / 3), (
        "the next captions: green, blue, red"
    )


def test_embeddings_of_many_images_and_captions_are_in_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    captions = ["red", "", "blue", "green", "red"]
    images, features = torch.zeros(5, 3, 2, 2, dtype=torch.uint8), torch.rand(5, 4)
    expected = watcher_of(captions, True)
    show(expected, "samples", images, 5, features)
    asked = []
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path))
    monkeypatch.setattr(batches, "IN_MEMORY", 0)
    monkeypatch.setattr(batches, "need_disk", lambda folder, num_bytes, what: asked.append(num_bytes))
    watcher = watcher_of(captions, True)
    show(watcher, "samples", images, 2, features)
    assert asked == [4 * 4 * 8, 4 * 4 * 4], (
        "of 4 texts in float64, and of the 4 images that have one in float32"
    )
    for name in ("samples", CHANCE):
        assert watcher.agreement(name) == expected.agreement(name)


def test_the_only_caption_is_not_found_among_others() -> None:
    clip: Any = Embedder()
    watcher = TextWatcher(clip, ["red", "red"], ["red"], 0, True)
    show(watcher, "samples", torch.zeros(2, 3, 2, 2, dtype=torch.uint8), 2, torch.ones(2, 4))
    found = watcher.agreement("samples")
    assert found.clip_similarity is not None
    assert found.r_precision is found.r_precision_std is None


def test_images_without_any_caption_are_no_number() -> None:
    watcher = watcher_of(["", ""], True)
    show(watcher, "samples", torch.zeros(2, 3, 2, 2, dtype=torch.uint8), 2, torch.ones(2, 4))
    assert watcher.agreement("samples") == Agreement()


class Spotter:
    """A judge that finds in an image the objects of its number, and its number as the place."""

    classes, things, adjectives = ("beach", "lake"), ("boat", "bird"), ("red", "small")
    config = SimpleNamespace(adjective_threshold=0.5)
    objects = ([("boat", "red")], [("bird", "red"), ("bird", "small")])

    def judge(self, images: Tensor) -> Judged:
        numbers = images[:, 0, 0, 0].long()
        objects = [
            [Found(name, 0.9, (0, 0, 1, 1), {word: 0.8}) for name, word in self.objects[number]]
            for number in numbers.tolist()
        ]
        return Judged(F.one_hot(numbers, 2).float(), None, objects)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_captions_state_is_looked_for(size: int) -> None:
    captions = ["a red boat on a beach", "", "a small red bird and a bird"]
    spotter: Any = Spotter()
    watcher = CaptionWatcher(spotter, captions)
    show(watcher, "samples", pictures(torch.tensor([0, 1, 1])), size)
    show(watcher, "test_images", pictures(torch.tensor([1, 1, 0])), size)
    # The third image has two birds, of which one is red or one small, not one both.
    found = watcher.agreement("samples")
    assert (found.objects, found.colours, found.adjectives, found.places) == (1.0, 1.0, 0.75, 1.0)
    assert watcher.agreement("test_images") == Agreement(objects=0, colours=0, adjectives=0, places=0)
    # The next captions: none for the first, the birds' for the second, the boat's for the third.
    chance = watcher.agreement(CHANCE)
    assert (chance.objects, chance.colours, chance.places) == (0.5, 0.5, 0.0)


def test_the_rows_of_all_watchers_are_joined_and_reasons_are_given() -> None:
    names = ["samples", "unigram_samples", "reconstructions", "test_images"]
    watcher = ClassWatcher(judge(), torch.tensor([0, 1]), torch.tensor([1, 1]))
    for name in names:
        show(watcher, name, pictures(torch.tensor([0, 1])), 2)
    found = condition_metrics([watcher], names, 2, {})
    assert (found.samples.class_accuracy, found.reconstructions.class_accuracy) == (1.0, 0.5)
    assert found.another_condition.class_accuracy == 0.0
    assert found.not_measured is found.num_candidates is found.unquantised_samples is None
    without = condition_metrics([], names, 2, {"class_accuracy": "no judges were given"})
    assert without.plain()["samples"] == {}
    assert without.not_measured == {"class_accuracy": "no judges were given"}
    np.testing.assert_equal(without.plain()["not_measured"], without.not_measured)
