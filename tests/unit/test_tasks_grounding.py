"""Grounding: the rules that its numbers are compared with, its cells, what is counted and refused, and its page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from tests.small_answers import write_all, write_boxes
from tests.small_tasks import COMMON
from vqpipe.data import asked
from vqpipe.data.asked import NO_AREA, NO_THING, OUTSIDE, expressions_of
from vqpipe.errors import DataError, ParamsError
from vqpipe.params.base import validate
from vqpipe.tasks import TASKS
from vqpipe.tasks.grounding import Grounding, GroundingHead, Referring, best_boxes, covered, name_boxes, sines
from vqpipe.tasks.inputs import Codes, CodeSpace, FrozenInputs
from vqpipe.tasks.task import Album, task_entry
from vqpipe.tokenizers.tokenizer import Tokenizer

NUM_IMAGES = 12


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("grounding"), NUM_IMAGES)


def make(dataset: Path, **changes: Any) -> Grounding:
    entry = task_entry(COMMON, {"kind": "grounding", **changes})
    return Grounding(validate(entry, "task", TASKS.params()), dataset, cast(Any, None), 16, None)


class Fixed(GroundingHead):
    """Finds the top left quarter of every image."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, z_q: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([[0.25, 0.25, 0.5, 0.5]]).expand(len(z_q), 4), torch.zeros(len(z_q), 16)


def measured(small: Path) -> Any:
    task = make(small / "dataset")
    test, train = task.examples("test"), task.examples("train")
    view = Codes(Tokenizer.from_pretrained(small / "vq"))
    inputs = FrozenInputs.encode(view, test.split, test.positions, 4)
    return task, test, train, inputs, task.measure(Fixed(), inputs, test, train)


def test_numbers_are_those_of_boxes_counted_by_hand(small: Path) -> None:
    task, test, train, inputs, found = measured(small)
    right = [own.box == (0.0, 0.0, 0.5, 0.5) for own in test.found]
    assert 0 < sum(right) < len(right)
    np.testing.assert_array_equal(found.values["accuracy"], right)
    np.testing.assert_allclose(found.values["iou"], right)
    assert found.metrics.accuracy.mean == pytest.approx(np.mean(right))
    assert found.metrics.other_image.accuracy.mean == pytest.approx(np.mean(right))
    count = [len(test.things[own.position]) for own in test.found]
    assert set(count) == {1, 2}
    np.testing.assert_allclose(found.values["any_object.accuracy"], 1 / np.array(count))
    alike = np.isfinite(found.values["alike.iou"])
    np.testing.assert_array_equal(alike, np.array(count) == 2)
    assert found.metrics.alike.num_expressions == sum(alike)
    mean = train.corners.mean(dim=0)
    ious = box_iou(mean[None], test.corners)[0]
    np.testing.assert_allclose(found.values["mean_box.iou"], ious, rtol=1e-5)
    np.testing.assert_allclose(found.values["name_box.iou"], ious, rtol=1e-5)
    about = task.describe(inputs, test, train)
    assert (about.num_expressions, about.num_train_expressions, about.num_cut) == (len(test), len(train), 0)
    assert len(set(test.ids)) == len(test)


def test_pictures_have_the_boxes_that_were_measured(small: Path) -> None:
    task, test, _, inputs, found = measured(small)
    rows = task.pictures(Fixed(), found, inputs, test, Album(test))
    assert len(rows) == task.config.num_pictures
    for row, at in zip(rows, task.shown(test), strict=True):
        assert (row["expression"], tuple(row["box"])) == (test.found[at].text, test.found[at].box)
        assert row["predicted"] == [0.0, 0.0, 0.5, 0.5]
        assert row["iou"] == found.values["iou"][at]


def test_an_answer_is_the_box_in_percent_of_the_sides(small: Path) -> None:
    task, _, train, inputs, _ = measured(small)
    said = task.answers(
        Fixed(),
        task.known(train),
        inputs.batch([0, 1]),
        ["the red box", "the lilac box of all the boxes that one can see"],
    )
    box = "left 0 %, top 0 %, right 50 %, bottom 50 %"
    unknown = "lilac, of, all, boxes, that, one, can, see"
    assert said == [box, f"{box} (unknown: {unknown}; only the first 4 words were read)"]
    with pytest.raises(DataError, match="no word of the text is known"):
        task.answers(Fixed(), task.known(train), inputs.batch([0]), ["lilac"])


def test_the_best_boxes_are_the_best_of_all_by_their_measure() -> None:
    corners = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    boxes = torch.cat(
        [corners, corners + torch.rand(40, 2, generator=torch.Generator().manual_seed(1)) / 2], dim=1
    )
    best, overlaps = best_boxes(boxes, seed=0), box_iou(boxes, boxes)
    assert float(box_iou(best["iou"][None], boxes).mean()) == pytest.approx(float(overlaps.mean(dim=1).max()))
    right = (overlaps >= 0.5).double().mean(dim=1)
    assert float((box_iou(best["accuracy"][None], boxes) >= 0.5).double().mean()) == float(right.max())


def test_the_box_of_a_name_is_the_mean_of_its_boxes(small: Path) -> None:
    train = make(small / "dataset").examples("train")
    for own in train.found[::2]:
        object.__setattr__(own, "name", "other")
    found = name_boxes(train)
    torch.testing.assert_close(found["other"], train.corners[::2].mean(dim=0))
    torch.testing.assert_close(found["box"], train.corners[1::2].mean(dim=0))


def test_covered_cells_are_those_of_a_fine_raster() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.1, 0.9, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]])
    fine = (torch.arange(240) + 0.5) / 240
    for box, found in zip(boxes, covered(boxes, (3, 4)), strict=True):
        x, y, width, height = box.tolist()
        inside = ((fine - y).abs() < height / 2)[:, None] & ((fine - x).abs() < width / 2)
        slow = inside.double().reshape(3, 80, 4, 60).mean(dim=(1, 3)).flatten()
        torch.testing.assert_close(found.double(), slow, atol=1e-4, rtol=0)


def test_each_place_begins_as_another_vector() -> None:
    places = sines((4, 6), 16)
    assert places.shape == (24, 16)
    assert float(torch.cdist(places, places).fill_diagonal_(torch.inf).min()) > 0.5


@pytest.mark.parametrize(("side", "grid"), [(None, (8, 8)), (8, (8, 8)), (4, (4, 4)), (1, (1, 1))])
def test_convolutions_halve_the_grid_down_to_the_side(side: int | None, grid: tuple[int, int]) -> None:
    config = make(Path("dataset"), head={"side": side}).config
    head = GroundingHead(CodeSpace((8, 8), 4, (16,), True, (4,)), config.head, 9, 4)
    boxes, inside = head(torch.randn(3, 4, 8, 8), torch.tensor([[4, 5, 0, 0]] * 3))
    assert head.grid == grid
    assert (boxes.shape, inside.shape) == ((3, 4), (3, grid[0] * grid[1]))
    assert bool(((boxes > 0) & (boxes < 1)).all())


def test_cut_and_unknown_expressions_are_counted(small: Path) -> None:
    task = make(small / "dataset", max_words=2)
    test, train = task.examples("test"), task.examples("train")
    few = Referring(
        train.split, train.positions[:1], train.targets, found=train.found[:1], left_out=train.left_out,
        things=train.things, vocabulary=type(train.vocabulary).of(train.texts[:1]),
    )  # fmt: skip
    inputs = FrozenInputs(
        cast(Any, Codes(Tokenizer.from_pretrained(small / "vq"))), torch.zeros(len(test), 1, 4, 4)
    )
    about = task.describe(inputs, test, few)
    assert about.num_cut == len(test)
    assert 0 < about.num_unknown < len(test)
    assert about.num_words == 3
    assert (few.num_cut, train.num_cut) == (0, len(train))
    assert task.describe(inputs, test, train).num_train_cut == len(train)
    said = replace(test, found=[replace(own, text="?!") for own in test.found[:2]] + test.found[2:])
    about = task.describe(inputs, said, train)
    assert (about.num_without_words, about.num_train_without_words) == (2, 0)
    clipped = replace(train, found=[replace(own, clipped=True) for own in train.found[:3]] + train.found[3:])
    about = task.describe(inputs, test, clipped)
    assert (about.num_clipped, about.num_train_clipped) == (0, 3)


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ((2.0, 2.0, 4.0, 4.0), (0.0, 0.0, 0.5, 0.5)),
        ((0.0, 2.0, 6.0, 4.0), (0.0, 0.0, 0.5, 0.5)),  # the crop begins at 2
        ((2.0, 2.0, 4.0, 0.0), NO_AREA),
        ((2.0, 2.0, float("nan"), 4.0), NO_AREA),
        ((5.0, 5.0, 1e-7, 4.0), NO_AREA),
        ((0.0, 2.0, 1.0, 4.0), OUTSIDE),
        ((9.9, 2.0, 4.0, 4.0), OUTSIDE),
    ],
)
def test_a_box_is_cut_to_the_crop_or_left_out_with_the_reason(
    box: tuple[float, ...], found: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"name": "box", "box": (2.0, 2.0, 8.0, 8.0)}
    row = {
        "height": 12, "width": 12, "things": [whole, {"name": "odd", "box": box}],
        "referring": [{"thing": 0, "text": "all"}, {"thing": 1, "text": "it"}, {"thing": 2, "text": "none"}],
    }  # fmt: skip
    batch = SimpleNamespace(to_pylist=lambda: [row])
    monkeypatch.setattr(asked, "open_split", lambda *_: SimpleNamespace(batches=lambda _: [batch]))
    read = expressions_of(Path("no"), "test", 8)
    left_out = {NO_THING: 1} | ({found: 1} if isinstance(found, str) else {})
    assert read.left_out == left_out
    assert [own.box for own in read.found] == [(0.0, 0.0, 1.0, 1.0)] + (
        [] if isinstance(found, str) else [found]
    )


def test_images_without_expressions_are_refused(small: Path, tmp_path: Path) -> None:
    bare = write_boxes(tmp_path, {"train": 4, "validation": 2, "test": 4}, leave_out=("referring",))
    with pytest.raises(DataError, match="no referring expressions"):
        make(bare).examples("test")
    chosen = make(small / "dataset", num_images=2).examples("test")
    assert len(set(chosen.positions.tolist())) == 2
    assert [own.position for own in chosen.found] == chosen.positions.tolist()


def test_losses_without_weight_are_refused() -> None:
    with pytest.raises(ParamsError, match="both 0"):
        make(Path("dataset"), l1_weight=0.0, giou_weight=0.0)
