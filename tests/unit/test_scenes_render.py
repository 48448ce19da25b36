"""The renderer: what it draws is what it says, at any resolution, in any order."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from vqpipe.data.adapters.scenes import CLASSES, ScenesSource, compose, render
from vqpipe.data.records import Record
from vqpipe.data.scenes.drawing import SEGMENTS, draw
from vqpipe.data.scenes.grammar import KIND_OF, KINDS, SIZES
from vqpipe.data.scenes.language import NUMBERS, plural
from vqpipe.data.scenes.layout import PLACES_BUILT, SHAPES, Item, Part, Scene
from vqpipe.errors import DataError, ParamsError
from vqpipe.params.base import validate


def config(**changes: object) -> ScenesSource:
    """A small source."""
    values = {
        "kind": "scenes", "path": "artifacts/code/dataset.txt", "resolution": 64, "supersample": 4, "seed": 5,
        "num_train": 120, "num_validation": 30, "num_test": 30, "max_objects": 4, "max_captions": 5,
    }  # fmt: skip
    return validate({**values, **changes}, "dataset.source", ScenesSource)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """The first images of a source."""
    return list(render(config(), "train", 0, 120))


def same(one: Record, other: Record) -> bool:
    """Whether two records agree in every field."""
    arrays = all(np.array_equal(getattr(one, k), getattr(other, k)) for k in ("image", "segmentation"))
    rest = [replace(r, image=np.zeros((0, 0, 3), np.uint8), segmentation=None) for r in (one, other)]
    return arrays and repr(rest[0]) == repr(rest[1])


def test_an_image_depends_on_seed_split_and_index_alone(records: list[Record]) -> None:
    late = list(render(config(num_train=500, num_test=3), "train", 97, 101))
    assert all(same(one, other) for one, other in zip(late, records[97:101], strict=True))
    (seeded,) = render(config(seed=6), "train", 0, 1)
    assert not same(seeded, records[0])


DIGEST = "cd0d26b2bf0c73cbf96166056b4a0b74c6ea77e1e7b2c23c74663b4bc9b6b7ff"
"""SHA-256 of the images and maps of `records`."""
PRINT_DIGEST = """
from tests.unit.test_scenes_render import config, digest, render
print(digest(render(config(), "train", 0, 120)))
"""


def digest(records: Iterable[Record]) -> str:
    """SHA-256 of images and maps."""
    whole = hashlib.sha256()
    for one in records:
        whole.update(one.image.tobytes() + one.segmentation.tobytes())
    return whole.hexdigest()


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the variables name parts of x86 processors"
)
def test_images_are_the_same_bytes_on_every_processor(records: list[Record]) -> None:
    plain = {
        "OPENBLAS_CORETYPE": "Prescott",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    }  # no AVX, no fused steps
    done = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST],
        env=os.environ | plain,
        capture_output=True,
        text=True,
        check=True,
    )
    assert digest(records) == done.stdout.strip() == DIGEST


def test_splits_share_no_image(records: list[Record]) -> None:
    source = config()
    others = [*render(source, "validation", 0, 30), *render(source, "test", 0, 30)]
    every = [*records, *others]
    assert len({r.image_id for r in every}) == len({r.image.tobytes() for r in every}) == 180


def test_ranges_outside_a_split_are_refused() -> None:
    with pytest.raises(DataError, match="within 0 to 30"):
        next(render(config(), "test", 0, 31))
    with pytest.raises(DataError, match="train, validation, test"):
        next(render(config(), "dev", 0, 1))


def test_params_are_checked() -> None:
    with pytest.raises(ParamsError, match="did you mean resolution"):
        config(resolutoin=32)
    with pytest.raises(ParamsError, match="max_objects"):
        config(max_objects=5)


def test_records_are_whole(records: list[Record]) -> None:
    for record in records:
        assert record.image.shape == (64, 64, 3)
        assert record.image.dtype == np.uint8
        assert record.segmentation is not None
        assert record.segmentation.dtype == np.uint8
        assert record.label is not None
        assert CLASSES[record.label] == record.label_name
        assert record.segmentation.min() > 0
        assert record.segmentation.max() < len(SEGMENTS)
        assert 1 <= len(record.things) <= 4
    assert len({record.label for record in records}) == len(CLASSES)
    assert {len(record.things) for record in records} == {1, 2, 3, 4}


def test_boxes_and_visibility_match_the_segmentation(records: list[Record]) -> None:
    hidden = 0
    for record in records:
        assert record.segmentation is not None
        for name in {thing.name for thing in record.things}:
            rows, columns = np.nonzero(record.segmentation == SEGMENTS.index(name))
            boxes = np.array([thing.box for thing in record.things if thing.name == name])
            low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
            assert low.tolist() == [columns.min(), rows.min()]
            assert high.tolist() == [columns.max() + 1, rows.max() + 1]
        for thing in record.things:
            assert 0.3 < thing.visible <= 1.0
            assert min(thing.box[2:]) >= 4
            hidden += thing.visible < 0.95
    assert hidden > 10, "some things are partly hidden"


def pick(text: str, record: Record) -> list[int]:
    """The things that a referring expression is true of, read from its words, the names, boxes and
    adjectives."""
    sides = {"on the left": (0, 1), "on the right": (0, -1), "at the top": (1, 1), "at the bottom": (1, -1)}
    side = next((phrase for phrase in sides if text.endswith(phrase)), None)
    relations = (
        "to the left of",
        "to the right of",
        "in front of",
        "behind",
        "above",
        "below",
        "on",
        "under",
    )
    told = None if side else next((name for name in relations if f" {name} the " in text), None)
    head, _, anchor = text.partition(f" {told} ") if told else (text.removesuffix(side or "").strip(), "", "")
    noun = head.split()[-1]
    words = set(head.split()[1:-1])
    found = [i for i, t in enumerate(record.things) if t.name == noun and words <= set(t.adjectives)]
    centres = np.array([(t.box[0] + t.box[2] / 2, t.box[1] + t.box[3] / 2) for t in record.things])
    if side:
        axis, sign = sides[side]
        return [min(found, key=lambda i: sign * centres[i][axis])]
    if not told:
        return found
    (other,) = pick(anchor, record)
    beside = {
        "to the left of": (0, -1),
        "to the right of": (0, 1),
        "above": (1, -1),
        "below": (1, 1),
        "on": (1, -1),
    }
    if told not in beside:
        return [i for i in found if i != other and touch(record, i, other)]
    axis, sign = beside[told]
    return [i for i in found if i != other and sign * (centres[i][axis] - centres[other][axis]) > 1.0]


def touch(record: Record, one: int, other: int) -> bool:
    """Whether two boxes meet, give or take the pixels that occlusion takes from a box."""
    a, b = record.things[one].box, record.things[other].box
    return all(a[k] <= b[k] + b[k + 2] + 2 and b[k] <= a[k] + a[k + 2] + 2 for k in (0, 1))


def test_referring_expressions_single_one_thing_out(records: list[Record]) -> None:
    forms: Counter[str] = Counter()
    for record in records:
        for expression in record.referring:
            assert pick(expression.text, record) == [expression.thing], (expression.text, record.things)
            forms[
                "relation"
                if re.search(" (of|behind|above|below|on|under) the ", expression.text)
                else "plain"
            ] += 1
    assert min(forms.values()) > 10
    assert sum(forms.values()) > 0.8 * sum(len(record.things) for record in records)


def test_answers_follow_from_things_and_segmentation(records: list[Record]) -> None:
    kinds: Counter[str] = Counter()
    for index, record in enumerate(records):
        scene = compose(config(), "train", index)
        names = Counter(thing.name for thing in record.things)
        for q in record.questions:
            kinds[q.kind] += 1
            assert " " not in q.answer
            if q.kind == "number":
                (noun,) = (name for name in names if f" {plural(name)} " in q.question)
                assert q.answer == NUMBERS[names[noun]]
            elif q.kind == "location":
                assert q.answer == record.label_name
            elif q.kind == "object" and q.question.startswith("which"):
                word = q.question.rstrip("?").split()[-1]
                assert [thing.name for thing in record.things if word in thing.adjectives] == [q.answer]
            elif q.kind == "object":
                assert q.answer in names
                assert names[q.question.rstrip("?").split()[-1]] == 1
            else:
                noun = q.question.rstrip("?").split()[-1]
                assert q.answer in KINDS["colour"]
                held = [x.words for x in (*scene.items, *scene.parts) if x.noun == noun]
                assert len(held) == 1
                assert q.answer in held[0]
    assert set(kinds) == {"object", "number", "color", "location"}


def portrait(noun: str, words: tuple[str, ...]) -> Scene:
    """One thing alone in a meadow."""
    form, (wide, high) = SHAPES[noun], next((SIZES[w] for w in words if w in SIZES), (1.0, 1.0))
    tilt, shear = 25.0 * ("tilted" in words), 0.45 * ("crooked" in words)
    item = Item(noun, words, 0.5, 0.6, form.width * wide, form.height * high, tilt, shear)
    parts = tuple(
        Part(b.noun, ("green",), sum(b.top) / 2, b.edge, b.rough) for b in PLACES_BUILT["meadow"].bands
    )
    return Scene("portrait", "meadow", (), parts, (item,), (), 5)


OBJECT_WORDS = [
    w for kind, words in KINDS.items() for w in (words[:7] if kind == "condition" else words) if w != "sunny"
]


@pytest.mark.parametrize("word", [w for w in OBJECT_WORDS if KIND_OF[w] != "colour"])
def test_every_adjective_shows_at_64_pixels(word: str) -> None:
    plain, told = draw(portrait("house", ("red",)), 64), draw(portrait("house", ("red", word)), 64)
    changed = np.abs(plain.image.astype(int) - told.image.astype(int)).sum(axis=2) > 60
    assert changed.sum() >= 25


@pytest.mark.parametrize("word", KINDS["pattern"])
@pytest.mark.parametrize("noun", ["ball", "car", "kite"])
def test_textures_do_not_vanish_at_64_pixels(noun: str, word: str) -> None:
    """Inside the thing, a pattern adds contrast to the grey values that the plain thing does not have."""
    plain, told = draw(portrait(noun, ("blue",)), 64), draw(portrait(noun, ("blue", word)), 64)
    inside = plain.instances == 1
    difference = (told.image.astype(float) - plain.image.astype(float)).mean(axis=2)[inside]
    assert difference.std() > 18.0
    assert 0.04 < (np.abs(difference) > 30).mean() < 0.75, (
        "neither too little of the second colour nor too much"
    )


def test_colours_of_things_are_their_words() -> None:
    for word in ("red", "blue", "green", "white", "black"):
        drawing = draw(portrait("ball", (word,)), 64)
        red, green, blue = drawing.image[drawing.instances == 1].astype(float).mean(axis=0)
        assert {
            "red": red > 1.6 * max(green, blue), "blue": blue > 1.6 * red, "green": green > 1.5 * max(red,
                blue),
            "white": min(red, green, blue) > 170, "black": max(red, green, blue) < 90,
        }[word]  # fmt: skip


def test_size_words_order_the_area() -> None:
    area = [int((draw(portrait("cup", ("red", *w)), 64).instances == 1).sum()) for w in
            (("tiny",), ("small",), (), ("large",), ("huge",))]  # fmt: skip
    assert area == sorted(set(area))


@pytest.mark.parametrize("resolution", [32, 128])
def test_resolution_changes_the_grid_and_not_the_scene(resolution: int, records: list[Record]) -> None:
    source = config(resolution=resolution)
    for index in range(6):
        (record,) = render(source, "train", index, index + 1)
        old = records[index]
        assert record.image.shape == (resolution, resolution, 3)
        assert (record.captions, record.referring, record.questions) == (
            old.captions,
            old.referring,
            old.questions,
        )
        scale = resolution / 64
        for thing, was in zip(record.things, old.things, strict=True):
            assert np.allclose(thing.box, np.array(was.box) * scale, atol=2.0 * max(1.0, scale))
        factor = resolution // 32
        block = record.image.reshape(32, factor, 32, factor, 3).mean(axis=(1, 3))
        assert np.abs(block - old.image.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))).mean() < 14.0


def test_edges_are_antialiased() -> None:
    drawing = draw(compose(config(), "train", 0), 64, supersample=4)
    hard = draw(compose(config(), "train", 0), 64, supersample=1)
    assert not np.array_equal(drawing.image, hard.image)
    assert np.abs(drawing.image.astype(int) - hard.image.astype(int)).max() > 20
