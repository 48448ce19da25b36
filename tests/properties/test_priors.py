"""What every prior of the table does, with the small params of its `example`; the toys go through the same tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.small_priors import shared
from tests.toy_priors import PLACES
from vqpipe.errors import MismatchError
from vqpipe.params.base import validate
from vqpipe.params.plugins import Table
from vqpipe.priors import PRIORS
from vqpipe.priors.artifact import PriorPictures, load_prior, save_prior
from vqpipe.priors.contract import PARTS, Condition, ConditionKind, ImageSpace, Prior
from vqpipe.runtime.seeds import seed_everything, torch_rng

ALL: Table[Prior] = Table("prior", {**PLACES, **PRIORS._places})
GRID, CHANNELS, CLASSES = (2, 3), 4, ("red", "green", "blue")
SIDE, TEXT = 12, (4, 8)
SPACES = {
    groups: ImageSpace(codes, GRID, CLASSES, CHANNELS, (1.0,) * CHANNELS, SIDE, ("sky", "sea", "sand"), *TEXT)
    for groups, codes in ((1, (5,)), (2, (3, 4)))
}
CASES = [
    pytest.param(kind, condition, groups, id=f"{kind}-{condition}-{groups}")
    for kind in ALL
    for condition in ALL[kind].conditions
    for groups in SPACES
]
EVERY = pytest.mark.parametrize(("kind", "condition", "groups"), CASES)


@pytest.fixture(autouse=True)
def whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PRIORS, "_places", ALL._places)


def make(kind: str, condition: ConditionKind, groups: int) -> Prior:
    """A prior whose predictions are far from uniform, in eval mode."""
    prior = ALL[kind]
    drop = 0.0 if condition == "none" else 0.1
    text = {"encoder": "clip", "max_tokens": TEXT[0]} if condition == "text" else None
    content = {
        **shared(),
        **prior.example(),
        "kind": kind,
        "condition": condition,
        "condition_drop": drop,
        "text": text,
    }
    seed_everything(0, "test")
    made = prior(validate(content, "prior", prior.Params), SPACES[groups])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def batch_of(prior: Prior, count: int) -> Tensor:
    rng = torch_rng(1, "images")
    if prior.models == "latents":
        return torch.randn(count, CHANNELS, *GRID, generator=rng)
    return torch.stack(
        [torch.randint(k, (count, *GRID), generator=rng) for k in prior.space.num_codes], dim=1
    )


def given(condition: ConditionKind, count: int) -> Condition:
    rng = torch_rng(2, "condition")
    parts = {
        "labels": torch.arange(count) % len(CLASSES),
        "text": torch.randn(count, *TEXT, generator=rng),
        "text_ids": torch.randint(9, (count, TEXT[0]), generator=rng),
        "label_map": torch.randint(3, (count, SIDE, SIDE), generator=rng),
    }
    return Condition(**{name: parts[name] for name in PARTS[condition]})


def sample(prior: Prior, condition: Condition, n: int, seed: int = 0) -> Tensor:
    return prior.sample(condition, n, prior.config.sampling, torch_rng(seed, "samples"))


@EVERY
def test_the_loss_is_one_finite_number_with_a_gradient(
    kind: str, condition: ConditionKind, groups: int
) -> None:
    prior = make(kind, condition, groups).train()
    loss = prior.loss(batch_of(prior, 6), given(condition, 6))
    assert loss.shape == ()
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert any(p.grad is not None and bool(p.grad.any()) for p in prior.parameters())
    assert all(
        p.grad is not None for p in prior.parameters() if p.requires_grad
    )  # data-parallel training needs it
    trained = {id(p) for group in prior.parameter_groups() for p in group["params"]}
    assert trained == {id(p) for p in prior.parameters() if p.requires_grad}
    assert all(isinstance(term, Tensor) for term in prior.curve_terms(loss.detach()).values())
    inside = {id(module) for module in prior.modules()}
    assert {id(network) for network in prior.networks()} <= inside


@EVERY
def test_samples_are_images_of_the_space_and_follow_the_generator(
    kind: str, condition: ConditionKind, groups: int
) -> None:
    prior, conditions = make(kind, condition, groups), given(condition, 6)
    drawn = sample(prior, conditions, 6)
    assert torch.equal(drawn, sample(prior, conditions, 6))
    assert not torch.equal(drawn, sample(prior, conditions, 6, seed=1))
    assert drawn.shape == batch_of(prior, 6).shape
    assert drawn.dtype == batch_of(prior, 6).dtype
    if prior.models == "tokens":
        for group, codes in enumerate(prior.space.num_codes):
            assert 0 <= int(drawn[:, group].min()) <= int(drawn[:, group].max()) < codes


@EVERY
def test_what_a_prior_does_not_take_is_refused(kind: str, condition: ConditionKind, groups: int) -> None:
    prior = make(kind, condition, groups)
    for other, parts in PARTS.items():
        if parts and not set(parts) <= set(prior.takes):
            with pytest.raises(MismatchError, match="cannot be given"):
                sample(prior, given(other, 6), 6)
    with pytest.raises(RuntimeError, match="eval mode"):
        sample(prior.train(), given(condition, 6), 6)


@EVERY
def test_known_tokens_stay_as_they_are(kind: str, condition: ConditionKind, groups: int) -> None:
    prior = make(kind, condition, groups)
    tokens = torch.zeros(6, groups, *GRID, dtype=torch.int64)
    if prior.known_tokens == "any":
        tokens[:, :, ::2, 1] = -1
    else:
        tokens[:, :, 1:] = -1
    condition_of = Condition(**given(condition, 6).parts, tokens=tokens)
    if prior.known_tokens == "none":
        with pytest.raises(MismatchError, match="cannot be given"):
            sample(prior, condition_of, 6)
        return
    drawn = sample(prior, condition_of, 6)
    assert torch.equal(drawn[tokens >= 0], tokens[tokens >= 0])


def every_image(num_codes: tuple[int, ...]) -> Iterator[Tensor]:
    """All images of one row of two positions, in batches."""
    positions = [codes for codes in num_codes for _ in range(2)]
    grids = torch.cartesian_prod(*(torch.arange(codes) for codes in positions))
    yield grids.view(len(grids), len(num_codes), 1, 2)


@EVERY
@torch.no_grad()
def test_the_likelihood_is_a_distribution_over_images(
    kind: str, condition: ConditionKind, groups: int
) -> None:
    prior = make(kind, condition, groups)
    if prior.log_likelihood(batch_of(prior, 2), given(condition, 2)) is None or prior.models == "latents":
        return
    small = type(prior)(prior.config, replace(prior.space, grid=(1, 2))).eval()
    total = 0.0
    for batch in every_image(small.space.num_codes):
        labels = Condition(labels=torch.ones(len(batch), dtype=torch.int64))
        found = small.log_likelihood(batch, labels if condition == "class" else Condition())
        assert found is not None
        assert len(found) == len(batch)
        total += float(found.double().flatten(1).sum(1).exp().sum())
    assert total <= 1 + 1e-5, "a bound of the likelihood may give less, never more"
    if kind in ("gpt", "unigram"):
        assert total == pytest.approx(1, abs=1e-5)


@EVERY
def test_a_saved_prior_draws_the_same(
    kind: str, condition: ConditionKind, groups: int, tmp_path: Path
) -> None:
    prior, conditions = make(kind, condition, groups), given(condition, 2)
    picture = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    codes = torch.zeros(2, groups, *GRID, dtype=torch.int64)
    nothing = torch.zeros(2, dtype=torch.float64)
    labels = conditions.labels if conditions.labels is not None else torch.full((2,), -1)
    save_prior(
        tmp_path / "prior", prior, True,
        PriorPictures(
            picture, codes, labels, ["", ""], conditions.label_map, picture, picture, ["a", "b"], nothing, nothing
        ),
    )  # fmt: skip
    again = load_prior(tmp_path / "prior")
    assert (again.config, again.space) == (prior.config, prior.space)
    assert torch.equal(sample(again, conditions, 2), sample(prior, conditions, 2))
    assert not any(p.requires_grad for p in again.parameters())
