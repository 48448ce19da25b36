"""What every task of the table does, on pictures that a small tokenizer's codes show in full."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.ranks import ROOT, run_ranks
from tests.small_answers import facts, read_all, write_all
from tests.small_tasks import COMMON
from tests.tiny import TOKENIZER
from vqpipe.artifacts.publish import SIDECARS, read_manifest
from vqpipe.artifacts.specs.task import TASK, TASK_PER_IMAGE
from vqpipe.artifacts.tables import read_table
from vqpipe.errors import MismatchError
from vqpipe.metrics.floors import other_examples
from vqpipe.params.base import validate
from vqpipe.report.gate import flatten
from vqpipe.tasks import TASKS, solve
from vqpipe.tasks.caption_tasks import TestCaptions
from vqpipe.tasks.inputs import FrozenInputs, Input, view_of
from vqpipe.tasks.masked_words import MaskedWords, draw_masks
from vqpipe.tasks.solve import solve_task
from vqpipe.tasks.stored import HEAD
from vqpipe.tasks.task import Examples, HeadResult, Task, task_entry

CPU = torch.device("cpu")
SEED = 3
NUM_IMAGES = 32
TRAINING = {
    **TOKENIZER["training"], "num_steps": 300, "batch_size": 16, "learning_rate": 3e-3, "ema_decay": 0.0,
    "log_every": 5, "checkpoint_every": 10, "warmup_fraction": 0.1, "final_lr_fraction": 0.05,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What the tests need to know of a task: its small params, and where its main measure is."""

    score: str
    """The measure of `HeadResult.values` that is 1 where an example is solved; empty where the task has none."""
    other: str = ""
    """The same with the codes of another image; empty where the task has no other input that gives something away."""
    floor: Callable[[Task, Examples], float] = lambda *_: 0.0
    """What a perfect head has with the codes of other images."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Over the task's params in `tests.small_tasks.COMMON`."""
    by_ranks: Mapping[str, Any] = field(default_factory=dict)
    """Over `params`, so that no draw and no rank's share changes the loss: two ranks then train one process's head."""
    steps: int = 300
    """Optimiser steps that make it near-perfect."""


def others(task: Task, test: Examples) -> np.ndarray:
    """The example whose codes each one gets, where every image has one."""
    return other_examples(len(test), task.config.seed)


def same_place(task: Task, test: Examples) -> float:
    """How often another picture has the same class."""
    labels = test.split.labels
    return float((labels == labels[others(task, test)]).mean())


def same_answer(task: Task, test: Examples) -> float:
    """How often the same question about another picture has the same answer; of two boxes either may be meant."""
    other = other_examples(NUM_IMAGES, task.config.seed)
    shares = []
    for at in range(NUM_IMAGES):
        found = facts(int(other[at]))
        given = {own.question: own.answer for own in found["questions"]}
        colors = [thing.adjectives[0] for thing in found["things"]]
        for own in facts(at)["questions"]:
            if own.kind == "color":
                shares.append(colors.count(own.answer) / len(colors))
            else:
                shares.append(float(given[own.question] == own.answer))
    return float(np.mean(shares))


def equal_words(task: Task, test: Examples) -> np.ndarray:
    """Which words another picture's caption shares (n, words): all captions have as many."""
    words = np.array([facts(at)["captions"][0].split() for at in range(NUM_IMAGES)])
    return np.asarray(words == words[others(task, test)])


def same_words(task: Task, test: Examples) -> float:
    """ROUGE-L of another picture's caption: of captions of as many words, the share that is equal."""
    return float(equal_words(task, test).mean())


def same_caption(task: Task, test: Examples) -> float:
    """How often another picture has an equal caption."""
    return float(equal_words(task, test).all(axis=1).mean())


def same_masked_word(task: Task, test: Examples) -> float:
    """How often another picture's caption has the same word in the place of the one that is masked."""
    assert isinstance(task, MaskedWords)
    assert isinstance(test, TestCaptions)
    words = test.text(task.config.align()).words
    masked = words.masked_fill(~draw_masks(words, 1, task.config.seed), -1).amax(dim=1)
    return float(equal_words(task, test)[np.arange(NUM_IMAGES), masked.numpy()].mean())


def same_box(task: Task, test: Examples) -> float:
    """How often the same words mean the same box in another picture; where they mean none there, any may be taken."""
    other, shares = other_examples(NUM_IMAGES, task.config.seed), []
    for at in range(NUM_IMAGES):
        there = facts(int(other[at]))["things"]
        for thing in facts(at)["things"]:
            meant = [own.box for own in there if own.adjectives == thing.adjectives]
            boxes = meant or [own.box for own in there]
            shares.append(boxes.count(thing.box) / len(boxes))
    return float(np.mean(shares))


SHORT = {"head": {"max_tokens": 8}}
SHARP = {"directions": "both", "temperature": {"kind": "learned", "initial": 0.07, "lowest": 0.01}}
WHOLE = {"masked": {"mean": 1.0, "low": 1.0, "high": 1.0}}
"""All words are masked, as each rank draws its own masks."""
GATHERED = {"contrastive": {**SHARP, "gather": True}}
"""The captions of all ranks are candidates, and not those of a rank's own share alone."""
CASES: dict[str, Case] = {
    "masked_words": Case(
        "masked_1.recall", "masked_1.other_image", same_masked_word, SHORT, by_ranks=WHOLE, steps=500
    ),
    "retrieval": Case(
        "image_to_text.r1", "", same_caption, SHORT | {"contrastive": SHARP}, by_ranks=GATHERED, steps=1000
    ),
    "grounding": Case("accuracy", "other_image.accuracy", same_box, steps=800),
    "relations": Case("", params=SHORT, by_ranks=WHOLE),  # an error of 0 is its best: it has tests of its own
    "classification": Case("top1", "other_image", same_place),
    "captioning": Case("generated.rouge_l", "other_image.rouge_l", same_words, steps=900),
    "vqa": Case("accuracy", "other_image", same_answer, steps=600),
}


def rank_runs() -> dict[str, dict[str, Any]]:
    """What two ranks train: each task as one process does, and with its own params where those are others."""
    steps = {"training": {"num_steps": 12}}
    runs = {kind: {**CASES[kind].by_ranks, **steps} for kind in TASKS}
    return runs | {f"{kind}-own": steps for kind in TASKS if CASES[kind].by_ranks}


EVERY = pytest.mark.parametrize("kind", list(TASKS))
SOLVABLE = pytest.mark.parametrize("kind", [kind for kind in TASKS if CASES[kind].score])


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("answers"), NUM_IMAGES)


@lru_cache
def read(root: Path) -> Any:
    return read_all(root)


def entry_of(kind: str, **changes: Any) -> dict[str, Any]:
    """A task's params."""
    training = {**TRAINING, **changes.pop("training", {})}
    common = {**COMMON, "seed": SEED, "training": training, "batch_size": 16}
    return task_entry(common, {**CASES[kind].params, "kind": kind, **changes})


def make(kind: str, root: Path, scratch: Path, **changes: Any) -> Task:
    """A task on the small dataset."""
    dataset, clip, tokenizer = read(root)
    config = validate(entry_of(kind, **changes), "task", TASKS.params())
    scratch.mkdir(exist_ok=True, parents=True)
    return TASKS[kind](config, dataset, clip, tokenizer.resolution, scratch)


def solved(task: Task, root: Path) -> solve.Solved:
    dataset, clip, tokenizer = read(root)
    assert task.scratch is not None
    return solve_task(
        task.config, tokenizer, None, dataset, clip,
        scratch=task.scratch, curves=task.scratch / "curves.csv", device=CPU, title=task.kind,
    )  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A head and what it is measured on."""

    task: Task
    head: torch.nn.Module
    inputs: FrozenInputs
    test: Examples
    train: Examples

    def measure(self, **changes: Any) -> HeadResult:
        own = replace(self, **changes)
        with torch.no_grad():
            return own.task.measure(own.head, own.inputs, own.test, own.train)

    def fresh(self) -> HeadResult:
        """What the head measured before it was trained."""
        return self.measure(head=self.task.head(self.inputs.space, self.task.known(self.train)).eval())

    def of_others(self) -> HeadResult:
        """With the codes of another image, for all examples of an image the same."""
        return self.measure(inputs=self.inputs.of_other_images(self.task.config.seed))


@lru_cache
def trained(kind: str, root: Path, seen: Input = "codes", steps: int | None = None) -> Trained:
    """A head trained on all pictures, which are those of the test split too."""
    steps = steps or CASES[kind].steps
    training = {"num_steps": steps, "checkpoint_every": steps}
    return train(
        make(kind, root, root / f"scratch-{kind}-{seen}-{steps}", input=seen, training=training), root
    )


def train(task: Task, root: Path) -> Trained:
    _, clip, tokenizer = read(root)
    test, train = task.examples("test"), task.examples("train")
    view = view_of(task.config.input, tokenizer, clip)
    inputs = FrozenInputs.encode(view, test.split, test.positions, 16)
    head = task.head(inputs.space, task.known(train))
    assert task.scratch is not None
    assert task.config.training is not None
    solve._train(task, head, view, train, task.config.training, task.scratch, None, CPU, task.kind)
    return Trained(task, head, inputs, test, train)


def mean(result: HeadResult, name: str) -> float:
    return float(np.nanmean(result.values[name]))


@SOLVABLE
def test_a_head_learns_32_pictures_by_heart(kind: str, small: Path) -> None:
    assert mean(trained(kind, small).measure(), CASES[kind].score) > 0.97


@SOLVABLE
def test_the_codes_of_other_images_leave_what_the_rest_gives_away(kind: str, small: Path) -> None:
    case, own = CASES[kind], trained(kind, small)
    found, left = own.measure(), mean(own.of_others(), case.score)
    if case.other:  # what the task measures itself is what such inputs give
        assert left == pytest.approx(mean(found, case.other))
    assert left == pytest.approx(case.floor(own.task, own.test), abs=0.08)
    assert left < mean(found, case.score) - 0.2  # captions share three of five words


@SOLVABLE
def test_without_an_image_a_head_does_not_solve_the_task(kind: str, small: Path) -> None:
    """It has about what the codes of other images leave, or more: a head that trusts its codes is misled by those.
    In half the steps, in which the codes of its image give it more than the limit."""
    case = CASES[kind]
    own = trained(kind, small, "none", case.steps // 2)
    found = own.measure()
    assert case.floor(own.task, own.test) - 0.1 < mean(found, case.score) < 0.8
    if case.other:
        assert mean(found, case.score) == pytest.approx(mean(found, case.other))


PROJECTED, DRAWN = "similarity.projected", "similarity.random_projected"


def test_relations_come_closer_to_those_of_the_words(small: Path) -> None:
    """Of whole captions 0 is out of reach for any projection, as equation 8 does not train which position a word has:
    two words of one position, or of one code, have the cosine 1, and a pair of codes has one cosine for all pairs of
    words that it stands for."""
    own = trained("relations", small)
    found = mean(own.measure(), PROJECTED)
    assert found < 0.75 * mean(own.fresh(), PROJECTED)
    assert found < 0.75 * mean(own.measure(), DRAWN)


def test_relations_of_two_words_are_learned_by_heart_and_lost_with_other_codes(
    small: Path, tmp_path: Path
) -> None:
    """In captions of two words no pair of codes stands for two pairs of words, as long as masked text prediction does
    not move the positions. Codes that say nothing of their image have at least the error of one cosine for all."""
    training = {"num_steps": 400, "checkpoint_every": 400, "learning_rate": 2e-2}
    changes = {"head": {"max_tokens": 4}, "masked": {"weight": 1e-12}, "training": training}
    own = train(make("relations", small, tmp_path / "two", **changes), small)
    found, left = own.measure(), own.of_others()
    constant = found.metrics.similarity.constant
    assert mean(found, PROJECTED) < 0.1 * constant < 0.1 * mean(own.fresh(), PROJECTED)
    assert 0.9 * constant < mean(left, PROJECTED) < mean(left, DRAWN)


@EVERY
def test_values_are_of_examples_with_ids_of_their_own(kind: str, small: Path) -> None:
    own = trained(kind, small, steps=20)
    ids = own.test.ids
    assert len(set(ids)) == len(ids) == len(own.test) == len(own.inputs)
    found = own.measure()
    assert found.values
    assert all(values.shape == (len(ids),) for values in found.values.values())


@EVERY
def test_measuring_draws_the_same_for_any_batch(kind: str, small: Path) -> None:
    own = trained(kind, small, steps=20)
    found = own.measure()
    other = own.measure(task=make(kind, small, small / "batches", batch_size=7))
    assert found.values.keys() == other.values.keys()
    for name, values in found.values.items():
        np.testing.assert_allclose(values, other.values[name], atol=1e-4, err_msg=name)


@EVERY
def test_a_saved_head_measures_the_same(kind: str, small: Path, tmp_path: Path) -> None:
    own = trained(kind, small, steps=20)
    save_file({name: part.contiguous() for name, part in own.head.state_dict().items()}, tmp_path / "head")
    fresh = own.task.head(own.inputs.space, own.task.known(own.train))
    again = own.task.head(own.inputs.space, own.task.known(own.train))
    assert all(torch.equal(part, again.state_dict()[name]) for name, part in fresh.state_dict().items())
    fresh.load_state_dict(load_file(tmp_path / "head"))
    assert own.measure(head=fresh.eval()).metrics == own.measure().metrics


class Stopped(Exception):
    """What a killed run is in a test."""


@EVERY
def test_a_killed_run_goes_on_to_the_same_bytes(
    kind: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> solve.Solved:
        return solved(make(kind, small, tmp_path / name, training={"num_steps": 24}), small)

    whole = run("whole")
    plain, calls = TASKS[kind].loss, []

    def loss(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 18:  # once: the second run's calls are counted from here
            raise Stopped
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(TASKS[kind], "loss", loss)
        with pytest.raises(Stopped):
            run("parts")
        again = run("parts")
    # Of 24 steps, those after the last checkpoint before the 18th.
    assert len(calls) - 18 == 24 - 18 // TRAINING["checkpoint_every"] * TRAINING["checkpoint_every"]
    assert again.metrics == whole.metrics
    assert again.tables == whole.tables
    assert (tmp_path / "parts/curves.csv").read_bytes() == (tmp_path / "whole/curves.csv").read_bytes()
    for folder, found in (("one", whole), ("two", again)):
        found.write(tmp_path / folder)
    pictures = ["pictures.parquet"] if whole.task.picture_spec else []
    for name in (HEAD, "per_image.parquet", *pictures):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@EVERY
def test_what_is_written_is_read_again(kind: str, small: Path, tmp_path: Path) -> None:
    found = solved(make(kind, small, tmp_path / "run", training={"num_steps": 5}), small)
    found.write(tmp_path / "out")
    assert read_manifest(tmp_path / "out", TASK).facts["kind"] == kind
    rows = read_table(tmp_path / "out/per_image.parquet", TASK_PER_IMAGE).to_pylist()
    assert {row["head"] for row in rows} == {"fresh"}
    assert len({(row["measure"], row["image_id"]) for row in rows}) == len(rows)
    assert type(found.metrics).of(json.loads(json.dumps(found.metrics.plain())), "it") == found.metrics
    if found.task.picture_spec is not None:
        pictures = read_table(tmp_path / "out/pictures.parquet", found.task.picture_spec).to_pylist()
        assert pictures
        assert all(row["picture"][:4] == b"\x89PNG" for row in pictures)


@EVERY
def test_fewer_examples_than_a_batch_are_refused(kind: str, small: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="fewer training examples than one batch"):
        solved(make(kind, small, tmp_path / "run", training={"batch_size": 4096}), small)


def test_two_ranks_train_the_same_heads(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one process, where no draw and no rank's share changes the loss; of each other in any case."""
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    run_ranks(ROOT / "tests/train_task_ranks.py", str(small), str(tmp_path))
    for name in rank_runs():
        for ending in ("safetensors", "json"):
            first, second = ((tmp_path / f"{name}-{rank}.{ending}").read_bytes() for rank in (0, 1))
            assert first == second, (name, ending)
    for kind in TASKS:
        one = solved(make(kind, small, tmp_path / f"{kind}-one", **rank_runs()[kind]), small)
        two = json.loads((tmp_path / f"{kind}-0.json").read_text())
        assert two["measured"] == one.metrics.measured.plain()
        assert two["training"]["loss"] == pytest.approx(one.metrics.training.loss, rel=1e-3)
        own = flatten(one.metrics.fresh.plain())
        assert flatten(two["fresh"]) == pytest.approx(own, abs=1e-4), kind
    # The stage: each output once, by one rank.
    sidecars = {f"out{ending}" for ending in SIDECARS}
    assert {path.name for path in (tmp_path / "stage").iterdir()} == {"out", "m.json", "c.csv"} | sidecars
    assert read_manifest(tmp_path / "stage/out", TASK).facts["kind"] == "masked_words"
