"""The cost of sampling: passes through the network, and the batches that are tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.properties.test_priors import make
from tests.small_priors import GRID, ONE, PLAIN, TWO, labels, model
from tests.unit.test_priors_contract import Unigram, toy
from vqpipe.priors import PRIORS
from vqpipe.priors.contract import Condition
from vqpipe.priors.measure_cost import Evaluations, counted, known_batch, sampling_cost, training_cost
from vqpipe.runtime.seeds import torch_rng
from vqpipe.training.objective import TrainingCost, TrainingResult

POSITIONS = GRID[0] * GRID[1]


@pytest.mark.parametrize("num_codes", [ONE, TWO])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_gpt_passes_once_per_position_and_twice_with_guidance(
    num_codes: tuple[int, ...], guidance: float
) -> None:
    prior = model(num_codes)
    sampling = PLAIN.model_copy(update={"guidance": guidance})
    with counted(prior) as found:
        prior.sample(Condition(labels=labels(3)), 3, sampling, torch_rng(0, "test"))
    assert found.most == 3 * POSITIONS * (1 if guidance == 1 else 2)
    assert found.most == 3 * prior.network_evaluations(sampling)
    tokens = torch.full((3, len(num_codes), *GRID), -1)
    tokens.flatten(2)[..., :2] = 0
    with counted(prior) as rest:
        prior.sample(Condition(labels=labels(3), tokens=tokens), 3, sampling, torch_rng(0, "test"))
    assert rest.most == 3 * prior.network_evaluations(sampling, known=2) < found.most
    with counted(prior) as again:
        pass
    assert again.most is None
    assert not any(network._forward_pre_hooks for network in prior.networks())


@pytest.mark.parametrize("kind", PRIORS)
def test_the_passes_of_every_prior_are_those_of_its_images(kind: str) -> None:
    prior = make(kind, "none", 1)
    found = []
    for n in (1, 3):
        with counted(prior) as evaluations:
            prior.sample(Condition(), n, prior.config.sampling, torch_rng(0, "test"))
        found.append(evaluations.most)
    assert found[0] is not None
    assert found[0] >= 2
    assert found[1] == 3 * found[0]


def test_passes_in_a_captured_graph_are_not_counted_but_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(model(ONE)) as found:
        found.rows[0] = 5
        found.captured = True
    assert found.most is None
    monkeypatch.setattr(Evaluations, "most", None)
    cost = sampling_cost(model(ONE), conditions, 1)
    assert cost["network_evaluations_per_image"] == POSITIONS


def conditions(rows: slice) -> Condition:
    return Condition(labels=labels(64)[rows])


def test_the_cost_has_both_batches_and_the_passes() -> None:
    found = sampling_cost(model(ONE), conditions, 20)
    assert set(found) == {
        "sampling_seconds_per_image_batch_1", "sampling_seconds_per_image", "sampling_batch",
        "network_evaluations_per_image",
    }  # fmt: skip
    assert found["network_evaluations_per_image"] == POSITIONS
    assert found["sampling_batch"] in (1, 4, 16)
    assert 0 < found["sampling_seconds_per_image"] <= found["sampling_seconds_per_image_batch_1"]
    assert sampling_cost(model(ONE), conditions, 20, {300: 1e-9})["sampling_batch"] == 300


def test_what_was_drawn_in_several_passes_is_not_the_time_of_its_batch() -> None:
    for limit, known in ((None, {128: 0.5}), (128, {128: 0.5}), (64, {64: 0.5}), (100, {})):
        assert known_batch(PLAIN.model_copy(update={"batch": limit}), 128, 0.5) == known
    assert known_batch(toy(Unigram).config.sampling, 16, 0.5) == {16: 0.5}, "no batch, one pass"


def result(own: int, seconds: float) -> TrainingResult:
    """A training of 100 steps, of which this process took `own`."""
    return TrainingResult({}, False, 100, 0, [], TrainingCost(own, seconds, seconds))


def test_a_training_that_was_resumed_costs_all_of_its_steps(tmp_path: Path) -> None:
    note = tmp_path / "note.json"
    assert training_cost(result(0, 0.1), note) == {}, "not known"
    assert training_cost(result(100, 50.0), note) == {"training_seconds": 50.0}
    assert training_cost(result(25, 15.0), note) == {"training_seconds": 60.0}
    assert training_cost(result(0, 0.1), note) == {"training_seconds": 60.0}, "stopped while it was measured"
    note.write_text(note.read_text().replace("60", "61"))
    assert training_cost(result(0, 0.1), note) == {}, "damaged"


def test_a_prior_without_networks_has_no_passes() -> None:
    assert "network_evaluations_per_image" not in sampling_cost(toy(Unigram), conditions, 4)


@pytest.mark.parametrize(
    ("limit", "tried"), [(16, [1, 1, 4, 16]), (5, [1, 1, 4, 16]), (64, [1, 1, 4, 16, 64])]
)
def test_a_batch_that_does_not_fit_ends_the_trials(
    limit: int, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, seen = model(ONE), []
    draw = type(prior).sample

    def sample(self: Any, condition: Condition, n: int, *rest: Any) -> torch.Tensor:
        seen.append(n)
        if n > limit:
            raise torch.OutOfMemoryError
        assert rest[0].batch is None, "in one pass"
        return draw(self, condition, min(n, 2), *rest) if n == 1 else torch.zeros(n)

    monkeypatch.setattr(type(prior), "sample", sample)
    found = sampling_cost(prior, conditions, 64)
    assert seen[: len(tried)] == tried
    assert found["sampling_batch"] <= limit
    assert max(seen) == (64 if limit >= 16 else 16)


@pytest.mark.parametrize(("limit", "most"), [(None, 16), (8, 4), (1, 1)])
def test_no_larger_batch_is_tried_than_the_params_allow(
    limit: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, seen = model(ONE), []
    sampling = prior.config.sampling.model_copy(update={"batch": limit})
    prior.config = prior.config.model_copy(update={"sampling": sampling})
    monkeypatch.setattr(
        type(prior), "sample", lambda self, condition, n, *rest: seen.append(n) or torch.zeros(n)
    )
    assert sampling_cost(prior, conditions, 20)["sampling_batch"] <= (limit or 16)
    assert max(seen) == most


def test_a_cpu_is_not_tried_with_what_could_end_the_process() -> None:
    found = sampling_cost(toy(Unigram), lambda rows: Condition(labels=torch.zeros(rows.stop).long()), 5000)
    assert found["sampling_batch"] in (1, 4, 16, 64)


def test_no_larger_batch_is_tried_after_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, seen, clock = model(ONE), [], [0.0]
    monkeypatch.setattr("vqpipe.priors.measure_cost.time.perf_counter", lambda: clock[0])

    def sample(self: Any, condition: Condition, n: int, *rest: Any) -> torch.Tensor:
        seen.append(n)
        clock[0] += 0.4 * n
        return torch.zeros(n)

    monkeypatch.setattr(type(prior), "sample", sample)
    found = sampling_cost(prior, conditions, 64, seconds=3.0)
    assert seen == [1, 1, 4], "four images took 1.6 s, more than half of 3"
    assert found["sampling_seconds_per_image"] == pytest.approx(0.4)
