"""Question answering: answers, floors and WUPS one question at a time, and what is counted, cut and refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small_answers import read_all, write_all, write_boxes
from tests.small_tasks import COMMON
from tests.tiny import TOKENIZER
from vqpipe.data.records import Question
from vqpipe.errors import DataError, ParamsError
from vqpipe.metrics.floors import other_examples
from vqpipe.metrics.wups import wups
from vqpipe.params.base import validate
from vqpipe.tasks import TASKS, vqa
from vqpipe.tasks.inputs import FrozenInputs, view_of
from vqpipe.tasks.task import Album, task_entry
from vqpipe.tasks.vqa import Asked, Floors, TrainAsked, Vqa
from vqpipe.tasks.words import PAD, UNKNOWN

NUM_IMAGES = 12


class Said(nn.Module):
    """A head whose answer depends on an image's latent and on the words, by fixed random weights."""

    def __init__(self, num_answers: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.images = torch.randn(4 * 16, num_answers, generator=draws)
        self.words = torch.randn(200, num_answers, generator=draws)

    def forward(self, z_q: Tensor, words: Tensor) -> Tensor:
        return z_q.flatten(1) @ self.images + (self.words[words] * (words != PAD)[..., None]).sum(dim=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("questions"), NUM_IMAGES)


def make(root: Path, **changes: Any) -> Vqa:
    dataset, clip, tokenizer = read_all(root)
    own = task_entry({**COMMON, "training": TOKENIZER["training"]}, {"kind": "vqa", **changes})
    found = TASKS["vqa"](validate(own, "task", TASKS.params()), dataset, clip, tokenizer.resolution, root)
    assert isinstance(found, Vqa)
    return found


def asking(monkeypatch: pytest.MonkeyPatch, **splits: list[list[Question]]) -> None:
    """Let the splits have these questions."""
    monkeypatch.setattr(vqa, "questions_of", lambda dataset, split: splits[split])


def seen(task: Vqa, root: Path, test: Any) -> FrozenInputs:
    _, clip, tokenizer = read_all(root)
    view = view_of("codes", tokenizer, clip)
    return FrozenInputs.encode(view, test.split, test.positions, 5)


def test_every_number_is_that_of_one_question_at_a_time(small: Path) -> None:
    task = make(small)
    test, train = task.examples("test"), task.examples("train")
    assert isinstance(test, Asked)
    assert isinstance(train, TrainAsked)
    inputs, head = seen(task, small, test), Said(len(train.choices))
    found = task.measure(head, inputs, test, train)
    others = other_examples(NUM_IMAGES, task.config.seed)
    images = {at: inputs.batch([row]).z_q for row, at in enumerate(test.positions.tolist())}
    slow: dict[str, list[float]] = {}
    for row, (at, question) in enumerate(zip(test.positions.tolist(), test.asked, strict=True)):
        words, _ = train.vocabulary.encode([question.question], 12)
        given = {
            "accuracy": train.choices[int(head(images[at], words).argmax())],
            "other_image": train.choices[int(head(images[int(others[at])], words).argmax())],
            "majority": Counter(train.answers).most_common(1)[0][0],
        }
        assert given["accuracy"] == found.kept[0][row]
        for name, answer in given.items():
            slow.setdefault(name, []).append(float(answer == question.answer))
            slow.setdefault(f"{name}_wups_09", []).extend(wups([answer], [question.answer], 0.9))
            slow.setdefault(f"{name}_wups_00", []).extend(wups([answer], [question.answer], 0.0))
    metrics = found.metrics.plain()
    for name, values in slow.items():
        own = metrics[name.removeprefix("accuracy_")]
        assert (own["mean"] if isinstance(own, dict) else own) == pytest.approx(np.mean(values)), name
    assert 0 < metrics["accuracy"]["mean"] != metrics["other_image"]["mean"]
    kinds = [question.kind for question in test.asked]
    assert metrics["kinds"].keys() == {"location", "number", "color"}
    for kind, part in metrics["kinds"].items():
        own = [value for value, other in zip(slow["accuracy"], kinds, strict=True) if other == kind]
        assert (part["num_questions"], part["accuracy"]["mean"]) == (len(own), pytest.approx(np.mean(own)))
    assert metrics["chance"] == pytest.approx(1 / len(train.choices))
    assert found.values.keys() == {"accuracy", "wups_09", "wups_00", "other_image"}


def test_floors_are_the_most_frequent_answers() -> None:
    asked = [
        Question("what color is the sea?", "blue", "color"), Question("What color is  the SEA?", "gray", "color"),
        Question("what color is the sea?", "gray", "color"), Question("what color is snow?", "white", "color"),
        Question("what color is milk?", "white", "color"), Question("what color is it?", "white", "color"),
        Question("where is it?", "sea", "location"),
    ]  # fmt: skip
    floors = Floors.of(asked)
    assert floors.overall == "white"
    assert [floors.kind(Question("", "", kind)) for kind in ("color", "location", "number")] == [
        "white", "sea", "white",
    ]  # fmt: skip
    for text, kind, answer in (
        ("What color is the sea?", "color", "gray"), ("what color is tea?", "color", "white"),
        ("where is tea?", "location", "sea"), ("how many?", "number", "white"),
    ):  # fmt: skip
        assert floors.question(Question(text, "", kind)) == answer


def test_answers_that_cannot_be_given_are_counted_and_never_right(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [[Question("where is it?", " Sea ", "location"), Question("who is it?", "cat", "object")]] * 5
    train += [[Question("where is it?", "snow", "location")]] * 6 + [[]]
    test = [[Question("where is it?", "sea", "location"), Question("where is it?", "moon", "location")]] * 11
    asking(monkeypatch, train=train, test=[*test, []])
    task = make(small, max_answers=2)
    ours, other = task.examples("test"), task.examples("train")
    assert isinstance(other, TrainAsked)
    assert other.choices == ["snow", "cat"]  # sea and cat are equally frequent
    assert (len(other), other.num_left_out, other.num_without) == (11, 5, 1)
    assert other.targets[1].tolist() == [1] * 5 + [0] * 6
    inputs = seen(task, small, ours)
    protocol = task.describe(inputs, ours, other)
    assert (protocol.num_unknown, protocol.num_without_question, protocol.num_images) == (22, 1, 11)
    found = task.measure(Said(2), inputs, ours, other).metrics
    assert (found.num_questions, found.accuracy.mean, found.chance) == (22, 0.0, 0.0)
    assert found.wups_00.mean > 0


def test_long_questions_are_cut_and_counted(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (
        Question("where is it?", "sea", "location"),
        Question("what is in the sea?", "fish", "object"),
    )
    asking(monkeypatch, train=[[short, long]] * 12, test=[[long, Question("who?", "sea", "object")]] * 12)
    task = make(small, max_words=4)
    test, train = task.examples("test"), task.examples("train")
    assert isinstance(train, TrainAsked)
    assert train.num_cut == 12
    assert train.targets[0].shape == (24, 4)
    protocol = task.describe(seen(task, small, test), test, train)
    assert (protocol.num_cut, protocol.num_train_cut) == (12, 12)
    words, _ = train.vocabulary.encode(["who?"], 4)
    assert words[0, 0] == UNKNOWN
    assert (protocol.num_unknown_words, protocol.num_without_words, protocol.num_train_without_words) == (
        12,
        0,
        0,
    )


def test_questions_without_a_word_are_counted(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, signs = Question("where is it?", "sea", "location"), Question("?!", "snow", "location")
    asking(
        monkeypatch,
        train=[[where, signs]] * 12,
        test=[[where], [Question("", "sea", "location")], *[[]] * 10],
    )
    task = make(small)
    test, train = task.examples("test"), task.examples("train")
    protocol = task.describe(seen(task, small, test), test, train)
    assert (protocol.num_without_words, protocol.num_train_without_words) == (1, 12)


def test_a_question_is_as_wide_as_the_longest(small: Path) -> None:
    train = make(small, max_words=200).examples("train")
    assert isinstance(train, TrainAsked)
    words = train.targets[0]
    assert words.shape[1] == 6  # how many boxes are there ?
    own = make(small, max_words=200)
    head = own.head(seen(make(small), small, train).space, own.known(train)).eval()
    z_q = seen(make(small), small, train).batch([0, 1]).z_q
    wide = torch.nn.functional.pad(words[:2], (0, 9), value=PAD)
    torch.testing.assert_close(head(z_q, wide), head(z_q, words[:2]))


def test_questions_of_an_image_are_drawn_by_the_seed(small: Path) -> None:
    whole, one = make(small).examples("test"), make(small, num_questions=1).examples("test")
    assert len(whole) > len(one) == NUM_IMAGES
    assert set(one.ids) < set(whole.ids)
    assert len({name.split("#")[1] for name in one.ids}) > 1
    assert make(small, num_questions=1).examples("test").ids == one.ids
    assert make(small, num_questions=1, seed=4).examples("test").ids != one.ids
    assert make(small, num_questions=99).examples("test").ids == whole.ids
    assert len(make(small, num_questions=1).examples("train")) == len(make(small).examples("train"))


def test_pictures_have_all_questions_of_an_image(small: Path) -> None:
    task = make(small, num_pictures=3)
    test, train = task.examples("test"), task.examples("train")
    assert isinstance(test, Asked)
    assert isinstance(train, TrainAsked)
    inputs = seen(task, small, test)
    head = Said(len(train.choices))
    rows = task.pictures(head, task.measure(head, inputs, test, train), inputs, test, Album(test))
    assert len({row["image_id"] for row in rows}) == 3
    for row in rows:
        own = [at for at, name in enumerate(test.ids) if name.split("#")[0] == row["image_id"]]
        assert row["questions"] == [test.asked[at].question for at in own]
        assert row["right"] == [
            one == two for one, two in zip(row["predictions"], row["answers"], strict=True)
        ]
        assert row["picture"] == Album(test).picture(own[0])
        assert all(0 < chance <= 1 for chance in row["chances"])


def test_data_without_questions_are_refused_before_training(tmp_path: Path, small: Path) -> None:
    write_boxes(tmp_path, {"train": 8, "validation": 2, "test": 8}, leave_out=("questions",))
    task = make(small)
    task.dataset = tmp_path / "dataset"
    with pytest.raises(DataError, match="no questions"):
        task.examples("test")


def test_one_answer_for_all_and_images_without_any_are_refused(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = [[Question("where is it?", "sea", "location")]] * 12
    asking(monkeypatch, train=same, test=[[] for _ in same])
    with pytest.raises(DataError, match=r"every question has one answer(.|\n)*sea"):
        make(small).examples("train")
    with pytest.raises(DataError, match="no question about the images that are used"):
        make(small).examples("test")
    with pytest.raises(ParamsError, match="max_answers"):
        make(small, max_answers=1)
