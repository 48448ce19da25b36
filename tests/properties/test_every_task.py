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

from tests.ranks import ROOT, torchrun
from tests.small_answers import facts, read_all, write_all
from tests.small_tasks import COMMON
from tests.tiny import TOKENIZER
from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.task import TASK, TASK_PER_IMAGE
from vqpipe.artifacts.tables import read_table
from vqpipe.errors import MismatchError
from vqpipe.metrics.floors import other_examples
from vqpipe.params.base import validate
from vqpipe.report.gate import flatten
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.tasks import TASKS, solve
from vqpipe.tasks.inputs import FrozenInputs, Input, view_of
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
    floor: Callable[[Task, Examples], float] | None = None
    """What a perfect head has with the codes of other images; None where `input: none` states it."""
    by_ranks: bool = True
    """Whether the loss is a mean over examples, so that two ranks train the same head."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Over the task's params in `tests.small_tasks.COMMON`."""
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


def same_words(task: Task, test: Examples) -> float:
    """ROUGE-L of another picture's caption: both have as many words, so it is the share that is equal."""
    words = [np.array(facts(at)["captions"][0].split()) for at in range(NUM_IMAGES)]
    return float(np.mean([words[at] == words[other] for at, other in enumerate(others(task, test))]))


SHORT = {"head": {"max_tokens": 8}}
SHARP = {
    "contrastive": {"directions": "both", "temperature": {"kind": "learned", "initial": 0.07, "lowest": 0.01}}
}
CASES: dict[str, Case] = {
    "masked_words": Case("masked_1.recall", "masked_1.other_image", by_ranks=False, params=SHORT, steps=500),
    "retrieval": Case("image_to_text.r1", by_ranks=False, params=SHORT | SHARP, steps=1000),
    "grounding": Case("accuracy", "other_image.accuracy", steps=800),
    "relations": Case("", by_ranks=False, params=SHORT),  # its measures are of the codes, which do not change
    "classification": Case("top1", "other_image", same_place),
    "captioning": Case("generated.rouge_l", "other_image.rouge_l", same_words, steps=900),
    "vqa": Case("accuracy", "other_image", same_answer, steps=600),
}
EVERY = pytest.mark.parametrize("kind", list(TASKS))
SOLVABLE = pytest.mark.parametrize("kind", [kind for kind in TASKS if CASES[kind].score])


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("answers"), NUM_IMAGES)


@lru_cache
def read(root: Path) -> Any:
    return read_all(root)


def make(kind: str, root: Path, scratch: Path, **changes: Any) -> Task:
    """A task on the small dataset."""
    dataset, clip, tokenizer = read(root)
    training = {**TRAINING, **changes.pop("training", {})}
    common = {**COMMON, "seed": SEED, "training": training, "batch_size": 16}
    entry = task_entry(common, {**CASES[kind].params, "kind": kind, **changes})
    scratch.mkdir(exist_ok=True, parents=True)
    return TASKS[kind](validate(entry, "task", TASKS.params()), dataset, clip, tokenizer.resolution, scratch)


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


@lru_cache
def trained(kind: str, root: Path, seen: Input = "codes", steps: int | None = None) -> Trained:
    """A head trained on all pictures, which are those of the test split too."""
    _, clip, tokenizer = read(root)
    steps = steps or CASES[kind].steps
    training = {"num_steps": steps, "checkpoint_every": steps}
    task = make(kind, root, root / f"scratch-{kind}-{seen}-{steps}", input=seen, training=training)
    test, train = task.examples("test"), task.examples("train")
    view = view_of(seen, tokenizer, clip)
    inputs = FrozenInputs.encode(view, test.split, test.positions, 16)
    head = task.head(inputs.space, task.known(train))
    assert task.scratch is not None
    solve._train(task, head, view, train, task.config.training, task.scratch, None, CPU, kind)
    return Trained(task, head, inputs, test, train)


def mean(result: HeadResult, name: str) -> float:
    return float(np.nanmean(result.values[name]))


@SOLVABLE
def test_a_head_learns_32_pictures_by_heart(kind: str, small: Path) -> None:
    assert mean(trained(kind, small).measure(), CASES[kind].score) > 0.97


@SOLVABLE
def test_the_codes_of_other_images_leave_what_the_rest_gives_away(kind: str, small: Path) -> None:
    case, own = CASES[kind], trained(kind, small)
    found = own.measure()
    if case.other:  # what the task measures itself is what such inputs give
        inputs = own.inputs.of_other_images(own.task.config.seed)
        assert mean(own.measure(inputs=inputs), case.score) == pytest.approx(mean(found, case.other))
        left = mean(found, case.other)
    else:
        order = numpy_rng(0, "shuffled").permutation(NUM_IMAGES)
        left = mean(own.measure(inputs=own.inputs.exchanged(order)), case.score)
    if case.floor is not None:
        assert left == pytest.approx(case.floor(own.task, own.test), abs=0.08)
    else:
        alone = mean(trained(kind, small, "none").measure(), case.score)
        assert left < alone + 0.15
    assert left < mean(found, case.score) - 0.2  # captions share three of five words


@SOLVABLE
def test_without_an_image_a_head_does_not_solve_the_task(kind: str, small: Path) -> None:
    found = trained(kind, small, "none").measure()
    assert mean(found, CASES[kind].score) < 0.9
    if CASES[kind].other:
        assert mean(found, CASES[kind].score) == pytest.approx(mean(found, CASES[kind].other))


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


def test_two_ranks_train_the_same_heads(small: Path, tmp_path: Path) -> None:
    torchrun(ROOT / "tests/train_task_ranks.py", str(small), str(tmp_path))
    for kind in (kind for kind in TASKS if CASES[kind].by_ranks):
        one = solved(make(kind, small, tmp_path / f"{kind}-one", training={"num_steps": 12}), small)
        two = json.loads((tmp_path / f"{kind}.json").read_text())
        assert two["measured"] == one.metrics.measured.plain()
        assert two["training"]["loss"] == pytest.approx(one.metrics.training.loss, rel=1e-3)
        own = flatten(one.metrics.fresh.plain())
        assert flatten(two["fresh"]) == pytest.approx(own, abs=1e-4), kind
