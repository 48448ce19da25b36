"""Judges: what captions state, measures against numbers made by hand, heads, saving, training and resuming."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.small_judges import PARAMS, SCENES, write_scenes
from vqpipe.data.adapters.scenes import CLASSES, ScenesSource, compose
from vqpipe.data.annotations import things_of
from vqpipe.data.records import Thing
from vqpipe.data.scenes.grammar import KIND_OF, NOUNS, OBJECTS
from vqpipe.errors import MismatchError
from vqpipe.evaluation.judges import Found, JudgeParams, Judges, Read, Seen, Subjects
from vqpipe.evaluation.judges_captions import Mention, Stated, stated
from vqpipe.evaluation.judges_measure import (
    class_agreement,
    confusion,
    detection,
    facts_agreement,
    facts_found,
    map_agreement,
)
from vqpipe.evaluation.judges_train import JudgeTraining, Known, focal_loss
from vqpipe.params.base import validate
from vqpipe.runtime.seeds import seed_everything, torch_rng

SUBJECTS = Subjects(
    classes=("beach", "lake", "reef", "street", "forest", "garden"), categories=("sky", "sea", "bird"),
    things=("bird", "boat"), adjectives=("red", "small", "striped"), reads_captions=True,
)  # fmt: skip


def params(**changes: Any) -> JudgeParams:
    return validate({**PARAMS, **changes}, "judges", JudgeParams)


def judges(subjects: Subjects = SUBJECTS, **changes: Any) -> Judges:
    seed_everything(0, "test")
    made = Judges(params(**changes), subjects).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def pictures(count: int = 7, side: int = 32) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch_rng(0, "pictures")
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("judges") / "dataset")


def test_the_parser_reads_what_the_grammar_states() -> None:
    source, forms = validate(SCENES, "dataset.source", ScenesSource), 0
    source = source.model_copy(update={"num_train": 600})
    for index in range(600):
        scene = compose(source, "train", index)
        for caption in scene.captions:
            every = stated(caption.text, NOUNS, KIND_OF, CLASSES)
            assert sorted(every.pairs) == sorted(caption.pairs), caption.text
            own = stated(caption.text, OBJECTS, KIND_OF, CLASSES)
            assert sorted(own.pairs) == sorted(pair for pair in caption.pairs if pair[1] in OBJECTS)
            assert own.place == (
                scene.place if scene.place in caption.text.replace(",", "").split() else None
            )
            for mention in own.mentions:
                words = {*mention.adjectives, *mention.predicate}
                assert any(item.noun == mention.noun and words <= set(item.words) for item in scene.items), (
                    caption.text
                )
            forms += any(mention.predicate for mention in own.mentions)
            assert (" is " in caption.text or " that is " in caption.text) or not any(
                mention.predicate for mention in own.mentions
            )
    assert forms > 50


@pytest.mark.parametrize(
    ("caption", "mentions", "place"),
    [
        ("a small red bird, a boat and a bird on the dark beach",
         (Mention("bird", ("small", "red")), Mention("boat"), Mention("bird")), "beach"),
        ("in a reef, the boat is tilted and blue", (Mention("boat", (), ("tilted", "blue")),), "reef"),
        ("the bird is red and the sky is pale", (Mention("bird", (), ("red",)),), None),
        ("a small bird that is red sits above the blue boat",
         (Mention("bird", ("small",), ("red",)), Mention("boat", ("blue",))), None),
        ("above the boat is a bird", (Mention("boat"), Mention("bird")), None),
        ("a beach with wavy sand under a blue sky", (), "beach"),
    ],
)  # fmt: skip
def test_a_caption_as_read_by_hand(caption: str, mentions: tuple[Mention, ...], place: str | None) -> None:
    assert stated(caption, OBJECTS, KIND_OF, CLASSES) == Stated(mentions, place)


def test_iou_is_that_of_hand_made_maps() -> None:
    true = torch.tensor([[[0, 0, 1], [1, 1, -1]]])
    found = torch.tensor([[[0, 1, 1], [1, 2, 0]]])
    assert confusion(found, true, 3).tolist() == [[1, 1, 0], [0, 2, 1], [0, 0, 0]]
    measured = map_agreement(found, true, 3)
    assert measured is not None
    # Class 0: 1 of 2; class 1: 2 of 4; class 2 does not occur in the map.
    assert measured.mean_iou == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert measured.pixel_accuracy == pytest.approx(3 / 5)
    assert measured.num_classes == 2
    assert map_agreement(found, torch.full_like(true, -1), 3) is None


def test_maps_of_another_shape_or_with_unknown_classes_are_refused() -> None:
    found = torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(MismatchError, match="shape"):
        map_agreement(found, torch.zeros(1, 2, 3, dtype=torch.int64), 3)
    with pytest.raises(MismatchError, match="do not know"):
        map_agreement(found, torch.full((1, 2, 2), 3), 3)


def test_accuracy_leaves_out_images_without_a_class() -> None:
    chances = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.4, 0.0]]).repeat(1, 2) / 2
    chances[:, 3:] *= 0.1
    measured = class_agreement(chances, torch.tensor([0, 5, -1]))
    assert measured is not None
    assert (measured.top1.mean, measured.top5.mean, measured.num_images) == (0.5, 1.0, 2)
    assert class_agreement(chances, torch.tensor([-1, -1, -1])) is None
    with pytest.raises(MismatchError, match="label"):
        class_agreement(chances, torch.tensor([0, 6, 0]))


def found(name: str, *words: str, box: tuple[float, ...] = (0, 0, 4, 4), score: float = 0.9) -> Found:
    return Found(name, score, (box[0], box[1], box[2], box[3]), dict.fromkeys(words, 0.8))


def test_mentions_are_assigned_to_objects_so_that_most_is_found() -> None:
    truth = stated("a small red bird and a blue bird above a striped boat", OBJECTS, KIND_OF, CLASSES)
    objects = [found("bird", "blue"), found("bird", "red", "blue"), found("fish", "striped")]
    facts = facts_found(objects, truth, 0.5)
    assert facts == {"objects": (2, 3), "colours": (2, 2), "adjectives": (2, 4)}
    assert facts_found(objects[1:2], truth, 0.5)["objects"] == (1, 3)
    assert facts_found(objects, truth, 0.9)["adjectives"] == (0, 4)
    assert facts_found([], truth, 0.5) == {"objects": (0, 3), "colours": (0, 2), "adjectives": (0, 4)}


def test_an_object_is_matched_once_by_name_and_overlap() -> None:
    true = [[Thing("bird", (0, 0, 4, 4), ("red",)), Thing("boat", (10, 10, 4, 4), ("small", "red"))], []]
    seen = [
        [
            found("bird", "red", "striped"), found("bird", box=(0, 0, 4, 3)),
            found("boat", "red", box=(10, 11, 4, 4)), found("boat", box=(13, 10, 4, 4)),
        ],
        [found("bird")],
    ]  # fmt: skip
    measured = detection(seen, true, 0.5)
    assert measured is not None
    assert (measured.num_true, measured.num_found) == (2, 5)
    assert (measured.precision, measured.recall) == (2 / 5, 1.0)
    assert (measured.adjective_precision, measured.adjective_recall) == (2 / 3, 2 / 3)
    assert detection(seen, [[], []], 0.5) is None


def test_objects_are_read_from_the_peaks_of_the_heatmap() -> None:
    made = judges()
    heat = torch.full((1, 8, 8), -9.0)
    heat[0, 2, 5], heat[0, 2, 6] = 3.0, 2.9  # its neighbour is no peak
    heat[0, 6, 1], heat[0, 4, 1] = 1.0, 0.9  # two objects on one another
    heat[0, 0, 7] = -2.0  # below the threshold
    points = torch.zeros(1, 16, 8, 8)
    points[0, 0, 2, 5] = 1.0
    with torch.no_grad():
        for layer in (made.name, made.box, made.adjective):
            layer.weight.zero_()
        made.name.bias.copy_(torch.tensor([0.0, 2.0]))
        made.name.weight[0, 0] = 4.0  # a bird where the first channel is on, else a boat
        made.box.bias.copy_(torch.tensor([0.5, 0.25, math.log(2.0), math.log(8.0)]))
        made.adjective.bias.copy_(torch.tensor([2.0, -2.0, 0.0]))
        (objects,) = made._objects(Seen(None, None, heat, points), (64, 32), 0.3)
    assert [one.name for one in objects] == ["bird", "boat"]
    sure = torch.tensor(2.0).sigmoid().item()
    assert objects[0].score == pytest.approx(torch.tensor(3.0).sigmoid().item() * sure)
    assert objects[1].score == pytest.approx(torch.tensor(1.0).sigmoid().item() * sure)
    # A place is 4 pixels wide and 8 high: centre (22, 18), 8 wide and 64 high, cut at the image's edge.
    assert objects[0].box == pytest.approx((18.0, 0.0, 8.0, 50.0))
    assert objects[0].adjectives == pytest.approx({"red": 0.8808, "small": 0.1192, "striped": 0.5}, abs=1e-4)


@pytest.mark.parametrize("side", [32, 48])
def test_what_judges_say_does_not_depend_on_the_batch(side: int) -> None:
    made, images = judges(), pictures(side=side)
    whole, parts = made.judge(images), [made.judge(images[:2]), made.judge(images[2:])]
    assert whole.classes is not None
    assert whole.maps is not None
    torch.testing.assert_close(whole.classes, torch.cat([part.classes for part in parts]))  # type: ignore[misc]
    assert whole.maps.shape == (7, side, side)
    assert torch.equal(whole.maps, torch.cat([part.maps for part in parts]))  # type: ignore[misc]
    assert whole.classes.sum(1).tolist() == pytest.approx([1.0] * 7)
    found = made.find(images, threshold=0.01)
    assert len(found) == 7
    assert any(found)
    for own in found:
        assert [one.score for one in own] == sorted((one.score for one in own), reverse=True)
        for one in own:
            x, y, w, h = one.box
            assert 0 <= x <= x + w <= side + 1e-3
            assert 0 <= y <= y + h <= side + 1e-3


@pytest.mark.parametrize("part", ["classes", "categories", "things"])
def test_a_head_without_a_column_is_absent(part: str) -> None:
    alone = Subjects(**{part: getattr(SUBJECTS, part)})
    made, images = judges(alone), pictures(2)
    ways = {"classes": made.class_of, "categories": made.segment, "things": made.find}
    assert len(ways.pop(part)(images)) == 2  # type: ignore[operator]
    for name, way in ways.items():
        with pytest.raises(MismatchError, match="no judge of"):
            way(images)  # type: ignore[operator]
        assert not getattr(made, name)
    truths = [stated("a bird on a beach", OBJECTS, KIND_OF, CLASSES)] * 2
    agreement = facts_agreement(made, made.judge(images), truths)
    assert (agreement.objects is not None, agreement.places is not None) == (
        part == "things",
        part == "classes",
    )
    if part == "things":
        assert all(one.adjectives == {} for own in made.find(images, 0.01) for one in own)


def test_the_measures_of_the_judges_are_those_of_what_they_say() -> None:
    made, images = judges(), pictures()
    judged = made.judge(images)
    assert judged.classes is not None
    assert judged.maps is not None
    accuracy = class_agreement(made.class_of(images), judged.classes.argmax(1))
    assert accuracy is not None
    assert accuracy.top1.mean == 1.0
    agreement = map_agreement(made.segment(images), judged.maps, len(made.categories))
    assert agreement is not None
    assert agreement.mean_iou == 1.0


def test_judges_are_read_as_they_were_saved(tmp_path: Path) -> None:
    made, images = judges(), pictures()
    made.save(tmp_path / "judges", averaged=False)
    read = Judges.load(tmp_path / "judges")
    assert (read.subjects, read.config) == (SUBJECTS, made.config)
    assert not read.training
    own = made.state_dict()
    assert set(own) == set(read.state_dict())
    assert all(torch.equal(own[name], tensor) for name, tensor in read.state_dict().items())
    torch.testing.assert_close(read.class_of(images), made.class_of(images))


def test_the_focal_loss_is_the_papers() -> None:
    logits, target = torch.tensor([[[0.3, -1.2, 2.0]]]), torch.tensor([[[1.0, 0.4, 0.0]]])
    p = torch.sigmoid(logits)[0, 0].tolist()
    expected = (
        -((1 - p[0]) ** 2) * math.log(p[0])
        - 0.6**4 * p[1] ** 2 * math.log(1 - p[1])
        - p[2] ** 2 * math.log(1 - p[2])
    )
    assert focal_loss(logits, target).item() == pytest.approx(expected)


def test_objects_are_those_of_the_crop(dataset: Path) -> None:
    whole, crop = things_of(dataset, "train", 32), things_of(dataset, "train", 16)
    assert sum(map(len, whole)) > sum(map(len, crop)) > 0
    for own, inner in zip(whole, crop, strict=True):
        names = [thing.name for thing in own]
        assert all(thing.name in names for thing in inner)
        for thing in inner:
            x, y, w, h = thing.box
            assert 0 <= x <= x + w <= 16
            assert 0 <= y <= y + h <= 16
    visible = things_of(dataset, "train", 32, min_visible=0.999)
    assert 0 < sum(map(len, visible)) < sum(map(len, whole))


def test_mirrored_targets_are_those_of_the_mirrored_image(dataset: Path) -> None:
    known = Known.open(dataset, "train", params())
    made = Judges(params(), known.subjects("scenes"))
    rows = np.arange(4)
    plain, mirrored = (known.batch(rows, np.full(4, flip), made) for flip in (False, True))
    assert torch.equal(plain.images.flip(-1), mirrored.images)
    assert plain.maps is not None
    assert mirrored.maps is not None
    assert torch.equal(plain.maps.flip(-1), mirrored.maps)
    assert plain.heat is not None
    assert plain.places is not None
    assert plain.names is not None
    assert plain.boxes is not None
    assert mirrored.places is not None
    assert mirrored.boxes is not None
    real = plain.places >= 0
    assert real.sum() == sum(len(own) for own in known.things[:4])
    assert torch.equal(plain.places[real] // 8, mirrored.places[real] // 8)
    across = plain.places[real] % 8 + plain.boxes[real][:, 0]
    torch.testing.assert_close(mirrored.places[real] % 8 + mirrored.boxes[real][:, 0], 8 - across)
    for at in range(4):
        for number, thing in enumerate(known.things[at]):
            assert made.things[int(plain.names[at, number])] == thing.name
            assert plain.heat[at].flatten()[int(plain.places[at, number])] == 1.0


def test_targets_are_found_again_as_objects(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the targets encode, the detector decodes: the true names, boxes and adjectives."""
    known = Known.open(dataset, "train", params())
    made = Judges(params(max_found=40), known.subjects("scenes")).eval()
    batch = known.batch(np.arange(24), np.zeros(24, dtype=bool), made)
    assert batch.heat is not None
    assert batch.places is not None
    assert batch.names is not None
    assert batch.boxes is not None
    assert batch.adjectives is not None
    compared = 0
    for at, things in enumerate(known.things):
        own = batch.places[at, : len(things)]
        rows = torch.stack([own // 8, own % 8], 1)
        if any((rows - row).abs().max(1).values.lt(2).sum() > 1 for row in rows):
            continue  # centres next to each other share a peak

        def read(_: torch.Tensor, places: torch.Tensor, own: torch.Tensor = own, at: int = at) -> Read:
            which = [
                own.tolist().index(place) if place in own.tolist() else 0 for place in places[0].tolist()
            ]
            names = F.one_hot(batch.names[at, which], len(made.things)) * 40.0  # type: ignore[index]
            boxes, words = batch.boxes[at, which], batch.adjectives[at, which]  # type: ignore[index]
            return Read(names[None], boxes[None], 20 * words[None] - 10)

        monkeypatch.setattr(made, "at_places", read)
        logits = torch.where(batch.heat[at] == 1, 10.0, -10.0)[None]
        (objects,) = made._objects(Seen(None, None, logits, torch.zeros(1, 1, 8, 8)), (32, 32), 0.5)
        assert sorted(one.name for one in objects) == sorted(thing.name for thing in things)
        for thing in things:
            same = [one for one in objects if one.name == thing.name]
            best = min(same, key=lambda one: abs(one.box[0] - thing.box[0]) + abs(one.box[1] - thing.box[1]))
            assert best.box == pytest.approx(thing.box, abs=1e-3)
            assert {word for word, chance in best.adjectives.items() if chance > 0.5} == set(thing.adjectives)
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("missing", [False, True])
def test_every_weight_gets_a_gradient(dataset: Path, missing: bool) -> None:
    """Also in a batch in which nothing is known of any image."""
    known = Known.open(dataset, "train", params())
    made = Judges(params(), known.subjects("scenes"))
    batch = known.batch(np.arange(4), np.zeros(4, dtype=bool), made)
    if missing:
        assert batch.labels is not None
        assert batch.maps is not None
        assert batch.places is not None
        none = torch.full_like(batch.places, -1)
        batch = replace(batch, labels=batch.labels * 0 - 1, maps=batch.maps * 0 - 1, places=none, names=none)
    loss, terms = JudgeTraining(made).loss("main", batch, 0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert set(terms) == {"class", "map", "heat", "name", "box", "adjective"}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    if missing:
        assert all(not torch.as_tensor(terms[name]).any() for name in terms if name != "heat")
